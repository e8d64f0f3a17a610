"""Wrong inputs of every command: one line and a code each, and nothing is written."""

from pathlib import Path

import pytest

from tests.flowsr_export.commands.wrong_inputs import Row, assert_refused, make_inputs
from tests.flowsr_export.commands.wrong_inputs_make import MAKE

UP = "upscale good.bundle photo.png -o o.png"

USE: list[Row] = [
    ("--nope", 2, "No such option '--nope'"),
    ("sharpen a.png", 2, "No such command 'sharpen'"),
    ("upscale nope.png -o o.png --scale 2", 5, "nope.png does not exist"),
    ("upscale nope/ -o out --scale 2", 5, "neither a bundle nor an image"),
    ("upscale nope.bundle photo.png -o o.png --scale 2", 5, "nope.bundle does not exist"),
    ("upscale file.bundle photo.png -o o.png --scale 2", 5, "is not a directory"),
    ("upscale zip.bundle photo.png -o o.png --scale 2", 5, "is not a directory"),
    ("upscale empty photo.png -o out --scale 2", 5, "neither a bundle nor an image"),
    ("upscale text.json photo.png -o out --scale 2", 5, "neither a bundle nor an image"),
    ("upscale photo.png good.bundle -o out --scale 2", 2, "must come before the images"),
    ("upscale empty.png -o o.png --scale 2", 5, "empty.png is empty"),
    ("upscale text.png -o o.png --scale 2", 5, "text.png is not a PNG, JPEG"),
    ("upscale cut.png -o o.png --scale 2", 5, "cut.png is damaged"),
    ("upscale empty -o out --scale 2", 5, "folder empty holds no image"),
    ("upscale --bundle nope.bundle photo.png -o o.png --scale 2", 5, "does not exist"),
    ("upscale --bundle zip.bundle photo.png -o o.png --scale 2", 5, "is not a directory"),
    ("upscale damaged.bundle photo.png -o o.png --scale 2", 5, "model.fp32.onnx is damaged"),
    ("upscale badjson.bundle photo.png -o o.png --scale 2", 5, "is not valid JSON"),
    ("upscale newer.bundle photo.png -o o.png --scale 2", 5, "schema 99 is newer"),
    (f"{UP} --scale nan", 2, "scale must be a finite number, got nan"),
    (f"{UP} --scale -2", 2, "scale must be at least 1, got -2"),
    (f"{UP} --scale 0.5", 2, "scale must be at least 1, got 0.5"),
    (f"{UP} --scale 1e99", 2, "scale must be from 1 to 1048576, got 1e99"),
    (f"{UP} --scale 1e999999999", 2, "scale must be from 1 to 1048576, got 1e9"),
    (f"{UP} --scale 1e6", 2, "output sides must be at most 1048576 pixels"),
    (f"{UP} --scale 2x3x4", 2, "scale must be such as 4 or 2.7x3.6, got '2x3x4'"),
    (f"{UP} --scale ''", 2, "scale must be such as 4 or 2.7x3.6, got ''"),
    (f"{UP} --scale two", 2, "scale must be a finite number, got two"),
    (f"{UP} --size 1920", 2, "size must be such as 1920x1080, got '1920'"),
    (f"{UP} --size 0x5", 2, "size must be at least 1x1, got 0x5"),
    (f"{UP} --size -5x-5", 2, "size must be at least 1x1, got -5x-5"),
    (f"{UP} --size 2x2", 2, "size must be at least the image's 6x5, got 2x2"),
    (f"{UP} --size 99999999999x5", 2, "at most 1048576 pixels, got 99999999999x5"),
    (f"{UP} --scale 2 --size 12x10", 2, "--scale and --size"),
    ("upscale x4.bundle photo.png -o o.png --scale 3", 2, "only supports scale 4"),
    ("upscale good.bundle -o o.png --scale 2", 2, "good.bundle is a bundle"),
    ("upscale good.bundle photo.png -o none/o.png --scale 2", 1, "no folder none"),
    ("upscale good.bundle photo.png -o o.xyz --scale 2", 1, "o.xyz must end in one of"),
    ("upscale good.bundle photo.png -o photo.png --scale 2", 1, "exists; --force replaces it"),
    ("upscale good.bundle pictures -o photo.png --scale 2", 1, "folder photo.png cannot be"),
    ("upscale good.bundle photo.png photo.png -o out --scale 2", 2, "have the same output"),
    (f"{UP} --scale 2 --provider directml", 2, "'directml' is not one of cpu, cuda"),
    (f"{UP} --scale 2 --provider cuda", 4, "provider cuda is not in the installed"),
    (f"{UP} --scale 2 --backend ncnn", 2, "'ncnn' is not one of"),
    (f"{UP} --scale 2 --backend openvino --provider cuda", 2, "provider must be cpu with"),
    (f"{UP} --scale 2 --backend openvino --device 1", 2, "device must be 0 with backend"),
    (f"{UP} --scale 2 --provider cpu --tf32", 2, "tf32 is for provider cuda, got cpu"),
    (f"{UP} --scale 2 --convolution-search fast", 2, "'fast' is not one of heuristic"),
    ("inspect good.bundle --provider cuda", 4, "provider cuda is not in the installed"),
    ("inspect good.bundle --provider cpu --engine", 2, "--engine and --provider"),
    ("inspect good.bundle --provider cpu --precision fp16", 5, "holds no fp16 model"),
    (f"{UP} --scale 2 --precision fp16", 5, "good.bundle holds no fp16 model"),
    (f"{UP} --scale 2 --precision fp99", 2, "'fp99' is not one of"),
    (f"{UP} --scale 2 --threads 0", 2, "'--threads': 0 is not in the range x>=1"),
    (f"{UP} --scale 2 --device tpu", 2, "device must be cpu, cuda, cuda:N"),
    (f"{UP} --scale 2 --devices 0,,1", 2, "expected indices such as 0,1, got '0,,1'"),
    (f"{UP} --scale 2 --devices 0,1 --device 1", 2, "at most one of --device and --devices"),
    (f"{UP} --scale 2 --max-memory 0", 2, "expected an amount such as 800M or 1.5G, got '0'"),
    (f"{UP} --scale 2 --max-memory -1G", 2, "expected an amount such as 800M or 1.5G"),
    (f"{UP} --scale 2 --max-memory 1K", 6, "got 1024 (--max-memory)"),
    (f"{UP} --scale 2 --depth 12", 2, "'12' is not one of 8, 16, float"),
    ("upscale good.bundle photo.png -o o.jpg --scale 2 --depth 16", 1, "holds no 16 bits"),
    (f"{UP} --scale 2 --temperature 0.5", 2, "takes no temperature, got 0.5"),
    (f"{UP} --scale 2 --temperature nan", 2, "nan is not a finite number"),
    (f"{UP} --scale 2 --seed -1", 2, "'--seed': -1 is not in the range"),
    (f"{UP} --scale 2 --ray-workers 2", 2, "--ray-address and --ray-workers need --ray"),
    (f"{UP} --scale 2 -q -v", 2, "give at most one of --quiet and --verbose"),
    ("inspect nope.bundle", 5, "bundle nope.bundle does not exist"),
    ("inspect file.bundle", 5, "bundle file.bundle is not a directory"),
    ("inspect zip.bundle", 5, "bundle zip.bundle is not a directory"),
    ("inspect empty", 5, "empty is not a bundle: no bundle.json"),
    ("inspect list.bundle", 5, "bundle.json must hold an object"),
    ("inspect good.bundle --bundle good.bundle", 2, "give the bundle once"),
    ("inspect good.bundle --engine --compute-capability abc", 2, "such as 8.9, got 'abc'"),
    ("demo nope.bundle -o out", 5, "bundle nope.bundle does not exist"),
    ("demo -o photo.png", 1, "photo.png is not a folder"),
    ("doctor extra", 2, "unexpected extra argument (extra)"),
    ("completion tcsh", 2, "'tcsh' is not one of bash, zsh, fish"),
    ("fetch nothing -o out", 2, "'nothing' is not one of"),
    ("fetch all", 2, "Missing option '-o' / '--output'"),
    ("fetch all -o out --base-url nowhere", 2, "base_url must begin with http://"),
    ("fetch all -o out --base-url http://127.0.0.1:9", 1, "cannot be reached"),
]

JUDGE: list[Row] = [
    ("verify nope.bundle", 5, "bundle nope.bundle does not exist"),
    ("verify damaged.bundle", 5, "model.fp32.onnx is damaged"),
    ("verify good.bundle --model nope.pth", 5, "model nope.pth does not exist"),
    ("verify --prior prior.safetensors", 2, "--prior needs --model"),
    ("verify --locate nope.onnx", 5, "nope.onnx does not exist"),
    ("verify text.onnx --locate fp32", 5, "text.onnx is not a valid ONNX file"),
    ("verify --locate fp32 --quick", 2, "--locate and --quick exclude each other"),
    ("verify --locate fp32 --tolerance nan", 2, "nan is not a finite number"),
    ("verify -o photo.png", 1, "photo.png is not a folder"),
    ("verify -o none/deep --provider cuda", 4, "provider cuda is not in the installed"),
    ("bench nope.bundle -o out", 5, "bundle nope.bundle does not exist"),
    ("bench damaged.bundle -o out", 5, "model.fp32.onnx is damaged"),
    ("bench good.bundle", 2, "Missing option '-o' / '--output'"),
    ("bench good.bundle -o out --scale 1e99", 2, "from 1 to 1048576, got 1e99"),
    ("bench good.bundle -o out --lr-size 0x5", 2, "size must be at least 1x1, got 0x5"),
    ("bench good.bundle -o out --size 64x64 --sweep", 2, "give either --size, or --lr-size"),
    ("bench good.bundle -o out --duration nan", 2, "expected a duration such as 3s or 200ms"),
    ("bench good.bundle -o out --percentile 0,100", 2, "expected percentiles such as"),
    ("bench good.bundle -o photo.png/report", 1, "photo.png is not a folder"),
    ("bench good.bundle -o out --backend torch --model nope.pth", 5, "does not exist"),
    ("bench good.bundle -o out --batch 1,x", 2, "expected numbers such as 1,2,4, got '1,x'"),
    ("bench good.bundle -o out --streams 0", 2, "numbers must be at least 1, got '0'"),
    ("bench good.bundle -o out --min-runs 0", 2, "0 is not in the range x>=1"),
    ("bench good.bundle -o out --cuda-graphs -1", 2, "-1 is not in the range x>=0"),
    ("bench serve good.bundle", 2, "Missing option '--limit'"),
    ("bench serve good.bundle --limit 200ms", 2, "such as p99:200ms, got '200ms'"),
    ("bench serve good.bundle --limit p101:1s", 2, "such as p99:200ms, got 'p101:1s'"),
    ("bench serve good.bundle --limit p99:1s --rate 0", 2, "rates such as 5,10,20, got '0'"),
    ("bench serve good.bundle --limit p99:1s --url http://a:1", 2, "give either BUNDLE or"),
    ("bench serve --limit p99:1s --url ftp://a", 2, "url must be like http://127.0.0.1:8000"),
    ("bench serve --limit p99:1s --url http://127.0.0.1:1", 4, "must answer 200 to an image"),
    ("bench serve nope.bundle --limit p99:1s", 5, "bundle nope.bundle does not exist"),
    ("bench compare nope.json list.json", 5, "nope.json does not exist"),
    ("bench compare text.json list.json", 5, "text.json is not a report"),
    ("bench compare list.json list.json", 5, "list.json is not a report"),
    ("bench compare list.json list.json --threshold 0", 2, "0.0 is not in the range x>0"),
    ("evaluate good.bundle --metric psnr --hr nope", 5, "images nope does not exist"),
    ("evaluate good.bundle --metric psnr --hr empty", 5, "folder empty contains no image"),
    ("evaluate good.bundle --metric psnr --hr photo.png", 5, "photo.png is not a folder"),
    ("evaluate nope.bundle --metric psnr --hr pictures", 5, "nope.bundle does not exist"),
    ("evaluate good.bundle --metric psnr --hr pictures --lr nope", 5, "does not exist"),
    ("evaluate good.bundle --metric psnr --hr pictures --scale 2,2", 2, "expected distinct"),
    ("evaluate good.bundle --metric psnr --hr pictures --scale nan", 2, "got nan"),
    ("evaluate good.bundle --metric psnr --hr pictures --samples 2", 2, "got 2; noise needs"),
    ("evaluate good.bundle --metric vmaf --hr pictures", 2, "'vmaf' is not one of"),
    ("evaluate good.bundle --metric lpips --hr pictures", 2, "lpips needs alexnet"),
    ("evaluate --model nope.pth --metric psnr --hr pictures --backend torch", 5, "not exist"),
]

SERVE: list[Row] = [
    ("serve nope.bundle", 5, "bundle nope.bundle does not exist"),
    ("serve good.bundle --port 99999", 2, "99999 is not in the range 0<=x<=65535"),
    ("serve good.bundle --port web", 2, "'web' is not a valid integer"),
    ("serve good.bundle --host nowhere.invalid", 2, "cannot serve on nowhere.invalid"),
    ("serve good.bundle --timeout nan", 2, "nan is not a finite number"),
    ("serve good.bundle --max-memory 1Q", 2, "expected an amount such as 800M or 1.5G"),
    ("serve good.bundle --provider cuda --port 0", 4, "provider cuda is not in the installed"),
    ("serve-bundle triton", 2, "Missing option '-o' / '--output'"),
    ("serve-bundle triton nope.bundle -o models", 5, "bundle nope.bundle does not exist"),
    ("serve-bundle triton good.bundle -o photo.png", 1, "cannot be written"),
    ("serve-bundle triton good.bundle -o models --name a/b", 2, "got 'a/b' (--name)"),
    ("serve-bundle triton good.bundle -o models --engine x", 2, "engine is for tensorrt"),
    ("serve-bundle torchserve", 2, "No such command 'torchserve'"),
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good and wrong inputs."""
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder


@pytest.mark.parametrize("row", [*USE, *MAKE, *JUDGE, *SERVE], ids=lambda row: row[0])
def test_a_wrong_input_is_one_line_and_writes_nothing(
    row: Row, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(inputs)
    assert_refused(row, inputs)
