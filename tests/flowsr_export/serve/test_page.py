"""The demo page in headless Chromium: upload, scale, slider, keyboard, errors."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowsr_export.serve.app import create_app
from flowsr_export.serve.http_server import listen, url_of
from flowsr_runtime import Upscaler
from flowsr_runtime.upscaling.pool import UpscalerPool
from tests.flowsr_export.serve.serving import in_thread, png
from tests.stand_in import picture

CHROMIUM = shutil.which("chromium")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed; pip install playwright"
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not installed; apt-get install chromium"
)


@pytest.fixture
def url(bundle: Path) -> Iterator[str]:
    """A server with a model that resizes linearly."""
    with (
        Upscaler.open(bundle, threads=1) as upscaler,
        UpscalerPool(upscaler) as pool,
        listen("127.0.0.1", 0) as listener,
        in_thread(create_app(pool), listener),
    ):
        yield url_of(listener)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Any]:
    """An empty page; at the end it has complained of nothing."""
    complaints: list[str] = []
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            tmp_path / "profile", executable_path=CHROMIUM, headless=True, args=FLAGS
        )
        opened = context.new_page()
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        yield opened
        context.close()
    assert complaints == []


def test_a_picture_is_uploaded_enlarged_and_compared(
    page: Any, url: str, tmp_path: Path
) -> None:
    (tmp_path / "photo.png").write_bytes(png(picture(40, 60, "page")))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    page.get_by_text("linf-lp, any scale").wait_for()
    page.set_input_files("#file", tmp_path / "photo.png")
    page.fill("#scale", "2.5")
    page.click("#run")
    page.get_by_text("60×40 to 150×100 in").wait_for()
    assert page.evaluate("document.getElementById('after').naturalWidth") == 150
    cut = "document.getElementById('pictures').style.getPropertyValue('--cut')"
    assert page.evaluate(cut) == "50%"
    for _ in range(10):
        page.keyboard.press("ArrowRight")  # the slider has the focus by itself
    assert page.evaluate(cut) == "55%"
    box = page.locator("#slider").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + 10)
    assert float(page.evaluate(cut).rstrip("%")) == pytest.approx(25, abs=4)
    assert page.get_attribute("#download", "download") == "photo-150x100.png"
    assert {each.split("/")[2] for each in asked if each.startswith("http")} == {url[7:]}


def test_a_refusal_is_shown_in_words(page: Any, url: str, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_bytes(b"no picture")
    page.goto(url)
    page.set_input_files("#file", tmp_path / "no.png")
    page.click("#run")
    page.get_by_text("the body is not a PNG, JPEG").wait_for()
    assert page.locator("#status.bad").count() == 1
    assert page.locator("#result").is_hidden()
    assert page.locator("#run").is_enabled()


def test_everything_is_reached_by_keyboard(page: Any, url: str) -> None:
    page.goto(url)
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached == ["file", "scale", "format", ""]
