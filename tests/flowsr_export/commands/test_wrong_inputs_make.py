"""Wrong inputs of the commands that make bundles, engines and networks: one line and a code."""

from pathlib import Path

import pytest

from tests.flowsr_export.commands.wrong_inputs import Row, check, make_inputs

FLOW = "train flow --images pictures -o run"
PRIOR = "train prior --images pictures -o run --crop 8 --scale-range 1,2"
RTX = "build-engine good.bundle --precision fp32 --flavor tensorrt-rtx"

MAKE: list[Row] = [
    ("export-onnx --model nope.pth -o out", 5, "model nope.pth does not exist"),
    ("export-onnx --model text.pth -o out", 5, "text.pth is not a PyTorch checkpoint"),
    ("export-onnx --model empty.pth -o out", 5, "empty.pth is empty (0 bytes)"),
    ("export-onnx --model pictures -o out", 5, "cannot read model pictures: Is a directory"),
    (
        "export-onnx --model prior.safetensors -o out",
        5,
        "prior.safetensors holds a prior, not a model",
    ),
    (
        "export-onnx --model flow.safetensors --prior flow.safetensors -o out",
        5,
        "holds a model, not a prior",
    ),
    (
        "export-onnx --model flow.safetensors --prior nope.pth -o out",
        5,
        "prior nope.pth does not exist",
    ),
    ("export-onnx --model flow.safetensors --blocks 1,2 -o out", 5, "is not an SRFlow model"),
    ("export-onnx --prior prior.safetensors -o out", 2, "--prior needs --model"),
    ("export-onnx", 2, "Missing option '-o' / '--output'"),
    ("export-onnx -o photo.png", 1, "photo.png exists and is not a bundle"),
    ("export-onnx -o pictures --force", 1, "pictures exists and is not a bundle"),
    ("export-onnx -o good.bundle", 1, "bundle good.bundle exists; --force replaces it"),
    ("export-onnx -o out --scale nan", 2, "scale must be a finite number, got nan"),
    ("export-onnx -o out --scale 1e99", 2, "scale must be from 1 to 1048576, got 1e99"),
    ("export-onnx -o out --opset 11", 2, "11 is not in the range 18<=x<=19"),
    ("export-onnx -o out --precision int8", 2, "'int8' is not one of fp32, fp16, bf16"),
    ("export-onnx -o out --precision bf16 --opset 18", 2, "opset must be 22 in bf16"),
    ("calibrate --images nope -o out", 5, "folder of images nope does not exist"),
    ("calibrate --images photo.png -o out", 5, "folder of images photo.png is not a folder"),
    ("calibrate --images empty -o out", 5, "folder empty must contain images"),
    ("calibrate --images pictures -o out", 5, "calibration needs at least"),
    ("calibrate nope.bundle --images large -o out", 5, "bundle nope.bundle does not exist"),
    ("calibrate --images large -o photo.png", 1, "photo.png exists and is not a bundle"),
    ("calibrate --images large -o out --crop 8", 2, "8 is not in the range x>=16"),
    ("calibrate --images large -o out --budget-db nan", 2, "nan is not a finite number"),
    ("calibrate --images large -o out --budget-db 40 --max-psnr-loss 0.1", 2, "give either"),
    (
        "calibrate --images large -o out --exclude '['",
        2,
        "must be regular expressions, got '['",
    ),
    ("calibrate --images large -o out --alexnet nope.pth", 2, "must be given together"),
    (
        "calibrate --images large -o out --alexnet nope.pth --lpips-weights nope.pth",
        5,
        "weights nope.pth do not exist",
    ),
    ("calibrate --images large -o out --samples 4 --work photo.png", 1, "photo.png cannot be"),
    ("build-engine nope.bundle --size 64x64", 5, "bundle nope.bundle does not exist"),
    ("build-engine file.bundle --size 64x64", 5, "bundle file.bundle is not a directory"),
    (f"{RTX} --size 64", 2, "size must be such as 1920x1080, got '64'"),
    (f"{RTX} --lr-size 0x0 --scale 2", 2, "size must be at least 1x1, got 0x0"),
    (f"{RTX} --lr-size 64x64 --scale nan", 2, "scale must be a finite number, got nan"),
    (f"{RTX} --lr-size 64x64 --scale 2,,4", 2, "scale must be such as 4 or 2.7x3.6, got ''"),
    (f"{RTX} --lr-size 64x64 --scale 2 --compute-capability x", 2, "such as 8.9, got 'x'"),
    (f"{RTX} --lr-size 64x64 --scale 2 --max-memory 100", 6, "got 100 (--max-memory)"),
    (f"{RTX} --min-shapes input:1x3x8x8", 2, "--min-shapes and --max-shapes need --opt-shapes"),
    (f"{RTX} --opt-shapes input=1x3x8x8", 2, "expected a shape such as input:1x3x64x64"),
    (f"{RTX} --opt-shapes input:0x3x8x8", 2, "input must have 4 positive numbers"),
    ("build-engine good.bundle --flavor trt", 2, "'trt' is not one of auto, tensorrt"),
    ("build-engine good.bundle --workspace none", 2, "expected an amount such as 800M"),
    ("build-engine good.bundle --least-share nan", 2, "nan is not a finite number"),
    ("build-engine --model nope.pth -o out --dry-run", 5, "model nope.pth does not exist"),
    ("build-engine -o photo.png --lr-size 32x32", 1, "photo.png exists and is not a bundle"),
    ("engines list", 2, "Missing argument 'BUNDLE'"),
    ("engines list nope.bundle", 5, "bundle nope.bundle does not exist"),
    ("engines prune empty --all", 5, "empty is not a bundle: no bundle.json"),
    ("engines sort", 2, "No such command 'sort'"),
    ("train flow", 2, "Missing option '--images'"),
    ("train flow --images nope -o run", 5, "folder of images nope does not exist"),
    ("train flow --images photo.png -o run", 5, "photo.png is not a folder"),
    (
        "train flow --images empty -o run",
        5,
        "no picture of at least 128 pixels a side in empty",
    ),
    ("train flow --images pictures -o photo.png", 2, "Directory 'photo.png' is a file"),
    (f"{FLOW} --steps 0", 2, "'--steps': 0 is not in the range x>=1"),
    (f"{FLOW} --crop 64", 5, "no picture of at least 256 pixels a side in pictures"),
    (f"{FLOW} --scale-range 4,1", 2, "from 1 up, got 4,1 (--scale-range)"),
    (f"{FLOW} --scale-range nan,4", 2, "from 1 up, got nan,4 (--scale-range)"),
    (f"{FLOW} --scale-range 4", 2, "expected two numbers such as 1,4, got '4'"),
    (f"{FLOW} --learning-rate nan", 2, "nan is not a finite number"),
    (f"{FLOW} --ema-decay 1", 2, "1.0 is not in the range 0<=x<1"),
    (f"{FLOW} --device tpu", 2, "'tpu' is not one of cpu, cuda"),
    (f"{FLOW} --start nope.pth --crop 4", 5, "model nope.pth does not exist"),
    (
        f"{FLOW} --start prior.safetensors --crop 4",
        5,
        "prior.safetensors holds a prior, not a model",
    ),
    (f"{FLOW} --hidden-dim 3", 2, "--hidden-dim must be even, got 3"),
    (f"{FLOW} --nb 3", 2, "--nb is for srflow, not linf"),
    (f"{FLOW} --fonts nope", 5, "folder of fonts nope does not exist"),
    (f"{FLOW} --fonts empty", 2, "--fonts must be a folder with .ttf files, got empty"),
    (f"{PRIOR} --model nope.pth --vgg nope.st", 5, "model nope.pth does not exist"),
    (f"{PRIOR} --model flow.safetensors --vgg nope.st", 5, "weights nope.st do not exist"),
    (
        f"{PRIOR} --model flow.safetensors --vgg text.pth",
        5,
        "text.pth are not a PyTorch state dict",
    ),
    (f"{PRIOR} --model flow.safetensors --vgg nope.st --dim 3", 2, "--dim must be even, got 3"),
    (
        f"{PRIOR} --model flow.safetensors --vgg nope.st --perceptual-weight 0",
        2,
        "must be above 0",
    ),
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good and wrong inputs."""
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder


@pytest.mark.parametrize("row", MAKE, ids=lambda row: row[0])
def test_a_wrong_input_is_one_line_and_writes_nothing(
    row: Row, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(inputs)
    check(row, inputs)
