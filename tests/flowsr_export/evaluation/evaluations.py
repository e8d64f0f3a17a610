"""Narrow weights of LPIPS and DISTS, a bundle with noise, rows of an evaluation."""

from dataclasses import replace
from pathlib import Path

import onnx.parser
import torch
from PIL import Image
from safetensors.torch import save_file

from flowsr_export.evaluation.run import Row
from flowsr_runtime import write_bundle
from tests.flowsr_export.conftest import small_manifest
from tests.flowsr_lp.test_dists import own_weights, vgg16
from tests.flowsr_lp.test_perceptual import ALEX, convolutions
from tests.stand_in import picture

__all__ = ["ROW", "ROWS", "dists_weights", "folder_of", "lpips_weights", "noisy_bundle"]

ROW = Row(
    dataset="Set5",
    picture="bird",
    scale="4",
    method="bicubic",
    lr=(6, 9),
    size=(24, 36),
    seconds=0.5,
    figures={"psnr-y": 28.25, "lpips": 0.25},
    samples=({"psnr-y": 28.25, "lpips": 0.25},),
    warnings=(),
)
ROWS = [
    ROW,
    replace(ROW, method="flowsr-lp", figures={"psnr-y": 30.0, "lpips": 0.125}),
    replace(ROW, picture="baby", figures={"psnr-y": 29.25, "lpips": 0.75}),
    replace(ROW, picture="baby", method="flowsr-lp", figures={"psnr-y": 31.0, "lpips": 0.25}),
]

NOISY = """<ir_version: 8, opset_import: ["" : 18]>
noisy (float[1, 3, h, w] input, int64[10] geometry, float[1, 27, r, c] latent)
  => (float[1, 3, H, W] output)
<int64[1] begin = {8}, int64[1] end = {10}, int64[2] batch = {1, 3},
 int64[2] corner = {0, 0}, int64[2] plane = {2, 3}> {
  window = Slice (geometry, begin, end)
  sizes = Concat <axis = 0> (batch, window)
  base = Resize <mode = "linear"> (input, , , sizes)
  folded = DepthToSpace <blocksize = 3, mode = "CRD"> (latent)
  noise = Slice (folded, corner, window, plane)
  output = Add (base, noise)
}"""


def lpips_weights(folder: Path) -> tuple[Path, Path]:
    """Write weights of AlexNet's layers with few channels, and LPIPS's for them."""
    save_file(convolutions(ALEX), folder / "alexnet.safetensors")
    linear = {f"lin{i}.model.1.weight": torch.ones(1, n[1], 1, 1) for i, n in enumerate(ALEX)}
    save_file(linear, folder / "lpips.safetensors")
    return folder / "alexnet.safetensors", folder / "lpips.safetensors"


def dists_weights(folder: Path) -> tuple[Path, Path]:
    """Write weights of VGG16's layers with few channels, and DISTS's for them."""
    return vgg16(folder), own_weights(folder)


def folder_of(folder: Path, *names: str, height: int = 64, width: int = 72) -> Path:
    """Write one picture under each name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(picture(height, width, name)).save(folder / f"{name}.png")
    return folder


def noisy_bundle(folder: Path) -> Path:
    """Write a bundle without a prior: linear interpolation, and the latent added to it."""
    model = onnx.parser.parse_model(NOISY)
    manifest = small_manifest(latents=[{"name": "latent", "channels": 27, "patch": 3}])
    files = {"model.fp32.onnx": bytes(model.SerializeToString())}
    return write_bundle(folder, manifest, files).path
