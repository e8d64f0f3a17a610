"""The web app: images, every kind of error, model information."""

import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from flowsr_export.serve.admission import ServeLimits
from flowsr_export.serve.app import PAGE_FILES, PAGES, create_app
from flowsr_runtime import Upscaler, read_picture, write_bundle
from flowsr_runtime.upscaling.pool import UpscalerPool
from tests.flowsr_export.serve.serving import ask, counted, pixels_of, png
from tests.flowsr_runtime.conftest import STAGED
from tests.stand_in import picture

PIXELS = picture(9, 7, "serve")
BODY = png(PIXELS)


def test_a_picture_comes_back_as_the_upscaler_gives_it(
    app: FastAPI, upscaler: Upscaler
) -> None:
    answer = ask(app, "POST", "/upscale?scale=2.7x3", content=BODY)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    expected = upscaler.upscale(PIXELS, scale=("3", "2.7"))
    np.testing.assert_array_equal(pixels_of(answer.content), expected)
    stages = re.findall(r"(\w+);dur=", answer.headers["server-timing"])
    assert stages == ["receive", "decode", "enlarge", "encode"]


def test_a_size_is_width_and_height(app: FastAPI) -> None:
    answer = ask(app, "POST", "/upscale?size=20x31", content=BODY)
    assert pixels_of(answer.content).shape == (31, 20, 3)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff"])
def test_the_result_is_of_the_format_that_is_asked_for(app: FastAPI, kind: str) -> None:
    answer = ask(app, "POST", f"/upscale?scale=2&format={kind}", content=BODY)
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.format == kind.upper()
    assert answer.headers["content-type"] == f"image/{kind}"


def test_sixteen_bits_stay_unless_eight_are_asked_for(app: FastAPI) -> None:
    deep = png(np.arange(63, dtype=np.uint16).reshape(9, 7) * 1000)
    for query, depth in (("scale=2", 16), ("scale=2&depth=8", 8)):
        answer = ask(app, "POST", f"/upscale?{query}", content=deep)
        assert read_picture(answer.content).depth == depth


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 2), (9, 7, 4)])
def test_gray_and_alpha_come_back(app: FastAPI, shape: tuple[int, ...]) -> None:
    pixels = np.full(shape, 200, np.uint8)
    answer = ask(app, "POST", "/upscale?scale=2", content=png(pixels))
    assert pixels_of(answer.content).shape == (18, 14, *shape[2:])


def test_a_form_holds_the_picture_and_the_parameters(app: FastAPI) -> None:
    files = {"picture": ("any name.png", BODY)}
    answer = ask(app, "POST", "/upscale", files=files, data={"scale": "2", "format": "webp"})
    assert pixels_of(answer.content).shape == (18, 14, 3)


def bomb(width: int, height: int) -> bytes:
    """Return a PNG whose head promises more than there is."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = []
    for name, data in ((b"IHDR", head), (b"IDAT", b""), (b"IEND", b"")):
        crc = struct.pack(">I", zlib.crc32(name + data))
        chunks.append(struct.pack(">I", len(data)) + name + data + crc)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


REFUSED: list[tuple[str, bytes, dict[str, str], int, str]] = [
    ("scale=2", b"", {}, 400, "the body is empty"),
    ("scale=2", BODY[:90], {}, 400, "is damaged"),
    ("scale=2", b"no picture", {"content-type": "image/png"}, 415, "is not a PNG, JPEG, We"),
    ("scale=2", BODY, {"content-encoding": "gzip"}, 415, "content-encoding must be identity"),
    ("scale=2", bomb(60000, 60000), {}, 413, "at most 10000 pixels, got 60000x60000"),
    ("scale=2", bytes(100_001), {}, 413, "at most 100000 bytes"),
    ("scale=90", BODY, {}, 413, "at most 40000 pixels, got 630x810"),
    ("", BODY, {}, 422, "give exactly one of scale and size"),
    ("scale=2&size=9x9", BODY, {}, 422, "give exactly one of scale and size"),
    ("scale=nan", BODY, {}, 422, "scale must be a finite number, got nan"),
    ("scale=0.5", BODY, {}, 422, "scale must be at least 1, got 0.5"),
    ("scale=2x2x2", BODY, {}, 422, "got '2x2x2'"),
    ("scale=" + "9" * 65, BODY, {}, 422, "scale must be at most 64 characters, got 65"),
    ("size=0x5", BODY, {}, 422, "size"),
    ("size=9", BODY, {}, 422, "got '9'"),
    ("scale=2&format=exe", BODY, {}, 422, "got 'exe'"),
    ("scale=2&depth=12", BODY, {}, 422, "depth must be one of 8, 16, float, got '12'"),
    ("scale=2&resample=1", BODY, {}, 422, "resample is for bundles of one scale"),
    ("scale=2&resample=perhaps", BODY, {}, 422, "got 'perhaps'"),
    ("scale=2&seed=-1", BODY, {}, 422, "seed must be greater than or equal to 0, got '-1'"),
    ("scale=2&temperature=hot", BODY, {}, 422, "got 'hot'"),
    ("scale=2&temperature=inf", BODY, {}, 422, "temperature must be a finite number"),
    ("scale=2&temperature=1", BODY, {}, 422, "has a learned prior and takes no temperature"),
    ("scal=2", BODY, {}, 422, "got 'scal'"),
]


@pytest.mark.parametrize(("query", "body", "headers", "status", "words"), REFUSED)
def test_a_wrong_request_is_refused_with_one_line(
    app: FastAPI, query: str, body: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    answer = ask(app, "POST", f"/upscale?{query}", content=body, headers=headers)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert words in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        ("multipart/form-data", b"", "the form cannot be read: Missing boundary"),
        ("multipart/form-data; boundary=x", b"--x\r\nno form", "the form cannot be read"),
        ("multipart/form-data; boundary=x", b"--x--\r\n", "the form holds no file"),
    ],
)
def test_a_broken_form_is_refused(app: FastAPI, kind: str, body: bytes, words: str) -> None:
    headers = {"content-type": kind}
    answer = ask(app, "POST", "/upscale?scale=2", content=body, headers=headers)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "127.0.0.1:8000"}, 200),
        ({"host": "LOCALHOST"}, 200),
        ({"host": "[::1]:80"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "[::1"}, 403),
        ({"host": "localhost", "sec-fetch-site": "cross-site"}, 403),
        ({"host": "localhost", "sec-fetch-site": "same-origin"}, 200),
    ],
)
def test_pages_of_other_sites_do_not_reach_a_server_on_loopback(
    upscaler: Upscaler, headers: dict[str, str], status: int
) -> None:
    limits = ServeLimits(hosts=("127.0.0.1", "localhost", "::1"))
    with UpscalerPool(upscaler) as pool:
        app = create_app(pool, limits)
        answer = ask(app, "POST", "/upscale?scale=2", content=BODY, headers=headers)
    assert answer.status_code == status


def test_what_there_is_not_is_refused_as_json(app: FastAPI) -> None:
    for method, path, status in (("GET", "/none", 404), ("GET", "/upscale", 405)):
        answer = ask(app, method, path)
        assert (answer.status_code, list(answer.json())) == (status, ["error"])


def test_every_answer_is_counted_and_two_apps_know_nothing_of_each_other(
    app: FastAPI, upscaler: Upscaler
) -> None:
    ask(app, "POST", "/upscale?scale=2", content=BODY)
    ask(app, "POST", "/upscale?scale=0", content=BODY)
    counters = counted(app)
    assert counters['flowsr_answers_total{status="200"}'] == 1
    assert counters['flowsr_answers_total{status="422"}'] == 1
    assert counters["flowsr_output_pixels_total"] == 18 * 14
    assert counters['flowsr_stage_seconds_count{stage="enlarge"}'] == 1
    with UpscalerPool(upscaler) as pool:
        other = counted(create_app(pool))
    assert 'flowsr_answers_total{status="200"}' not in other
    assert other["flowsr_output_pixels_total"] == 0


def test_the_model_and_the_limits_are_told(app: FastAPI) -> None:
    told = ask(app, "GET", "/v1/model").json()
    assert (told["family"], told["scale"], told["sampled"]) == ("linf-lp", None, False)
    assert told["limits"]["output_pixels"] == 40_000


def test_the_schema_names_every_parameter_and_status(app: FastAPI) -> None:
    post = ask(app, "GET", "/openapi.json").json()["paths"]["/upscale"]["post"]
    assert {each["name"] for each in post["parameters"]} >= {"scale", "size", "format"}
    assert {"200", "408", "413", "415", "422", "429", "503", "504"} < set(post["responses"])


@pytest.mark.parametrize("path", PAGE_FILES)
def test_the_page_asks_nothing_of_other_servers(app: FastAPI, path: str) -> None:
    answer = ask(app, "GET", path)
    assert answer.content == (PAGES / PAGE_FILES[path][0]).read_bytes()
    assert re.findall(r"https?://|//\w", answer.text.replace("// ", "")) == []
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_a_result_that_is_far_out_of_range_comes_with_a_warning(exploding: Path) -> None:
    with Upscaler.open(exploding, threads=1) as upscaler, UpscalerPool(upscaler) as pool:
        answer = ask(create_app(pool), "POST", "/upscale", content=BODY)
    assert answer.status_code == 200
    assert "the inverse of the flow may have exploded" in answer.headers["flowsr-warning"]


def test_a_model_of_one_scale_needs_none(fourfold: Path) -> None:
    with Upscaler.open(fourfold, threads=1) as upscaler, UpscalerPool(upscaler) as pool:
        app = create_app(pool)
        answer = ask(app, "POST", "/upscale", content=BODY)
        other = ask(app, "POST", "/upscale?size=20x20&resample=1", content=BODY)
        told = ask(app, "GET", "/v1/model").json()
    assert pixels_of(answer.content).shape == (36, 28, 3)
    assert pixels_of(other.content).shape == (20, 20, 3)
    assert told["scale"] == "4"


def test_another_scale_of_an_image_takes_its_kept_features(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "staged", *STAGED)
    with (
        Upscaler.open(bundle, threads=1, feature_cache=1 << 20) as upscaler,
        UpscalerPool(upscaler) as pool,
        Upscaler.open(bundle, threads=1) as plain,
    ):
        app = create_app(pool, ServeLimits())
        for scale in (2, 3):
            answer = ask(app, "POST", f"/upscale?scale={scale}", content=BODY)
            np.testing.assert_array_equal(
                pixels_of(answer.content), plain.upscale(PIXELS, scale)
            )
        counters = counted(app)
    assert counters["flowsr_feature_hits_total"] == counters["flowsr_feature_misses_total"] == 1
    assert counters["flowsr_feature_bytes"] == PIXELS.size * 4
