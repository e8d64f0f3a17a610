"""Engines are found, chosen and run on both libraries; misses are explained."""

import re
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flowsr_runtime.backends.engines.tensorrt_session import TensorrtSession, load_library
from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.cuda.device import Device
from flowsr_runtime.errors import (
    BackendError,
    BundleError,
    IntegrityError,
    UsageError,
)
from flowsr_runtime.installation import pip_command
from flowsr_runtime.tiling.memory import ENGINE_MEMORY_BUDGET
from flowsr_runtime.upscaling.upscaler import Upscaler
from tests.doubles.rig import SMALL, TOLERANCE, WIDE, Rig, expected, feeds_of, real_session
from tests.doubles.trt_module import tensorrt_stubs


def test_a_run_gives_what_onnx_runtime_gives(rig: Rig, opened: TensorrtSession) -> None:
    feeds = feeds_of(4, 5)
    result = opened.run(feeds)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected(rig.bundle, feeds), atol=TOLERANCE)
    assert (opened.backend, opened.provider, opened.device) == (rig.backend, "cuda", 0)


def test_sizes_and_scales_change_from_run_to_run(rig: Rig, opened: TensorrtSession) -> None:
    runs = [feeds_of(4, 5), feeds_of(40, 30, 3), feeds_of(9, 2, 4, batch=2), feeds_of(1, 1)]
    results = [opened.run(feeds) for feeds in runs]
    for result, feeds in zip(results, runs, strict=True):
        np.testing.assert_allclose(result, expected(rig.bundle, feeds), atol=TOLERANCE)


def test_the_upscaler_enlarges_a_picture(rig: Rig, photo: NDArray[np.uint8]) -> None:
    rig.add()
    with (
        Upscaler.open(rig.bundle, backend=rig.backend) as ours,
        Upscaler.open(rig.bundle, device="cpu") as cpu,
    ):
        np.testing.assert_array_equal(ours.upscale(photo, 3), cpu.upscale(photo, 3))
    assert rig.cuda.leaks() == {}


def test_a_picture_larger_than_every_profile_is_cut_into_tiles(rig: Rig) -> None:
    rig.add()
    image = np.random.default_rng(3).random((150, 90, 3), dtype=np.float32)
    with (
        Upscaler.open(rig.bundle, backend=rig.backend) as ours,
        Upscaler.open(rig.bundle, device="cpu") as cpu,
    ):
        tiles = ours.plan((150, 90), 2)
        assert (len(tiles.rows), len(tiles.columns)) == (3, 2)
        np.testing.assert_allclose(ours.upscale(image, 2), cpu.upscale(image, 2), atol=2e-6)


def test_a_picture_that_no_engine_takes_is_refused_before_a_run(eleven: Rig) -> None:
    eleven.add(eleven.key(SMALL))
    with (
        Upscaler.open(eleven.bundle, backend=eleven.backend, halo="exact") as upscaler,
        pytest.raises(BundleError, match="90x150 to 9000x15000") as missed,
    ):
        upscaler.plan((150, 90), 100)
    assert missed.value.build == {
        "bundle": str(eleven.bundle.path),
        "flavour": "tensorrt",
        "precision": "fp32",
        "io": "float32",
        "halo": "exact",
        "lr_size": (150, 90),
        "size": (15000, 9000),
        "scale": (100, 100),
        "memory_budget": ENGINE_MEMORY_BUDGET,
    }


def test_the_first_profile_that_covers_is_taken(session: TensorrtSession) -> None:
    assert session._selection.choose(feeds_of(4, 5))[1] == 0
    assert session._selection.choose(feeds_of(17, 5))[1] == 1
    assert session._selection.choose(feeds_of(1, 5))[1] == 0


def test_another_engine_is_loaded_when_a_size_needs_it(eleven: Rig) -> None:
    small = eleven.add(eleven.key(SMALL))
    portable = eleven.add(eleven.key(WIDE, compute_capability=()))
    session = eleven.open()
    assert session.engines == [small.name]
    session.run(feeds_of(20, 20))
    assert session.engines == [small.name, portable.name]
    session.close()


def test_a_bundle_without_engines_tells_what_to_build(rig: Rig) -> None:
    with pytest.raises(BundleError, match=r"NVIDIA L4 \(8\.9\): it holds no engine") as missed:
        rig.open()
    facts = {
        "bundle": str(rig.bundle.path),
        "flavour": rig.backend,
        "precision": "fp32",
        "io": "float32",
    }
    if rig.backend == "tensorrt_rtx":
        facts["compute_capability"] = "8.9"
    assert missed.value.build == facts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "9.1"}, r"version is 9\.1, wanted 11\."),
        ({"compute_capability": ("8.6",)}, r"compute_capability is 8\.6, wanted 8\.9"),
        ({"gpu_name": "NVIDIA L40"}, "gpu_name is NVIDIA L40, wanted NVIDIA L4"),
        ({"onnx_sha256": "b" * 64}, "onnx_sha256 is bbbb"),
        ({"precision": "fp16"}, "precision is fp16, wanted fp32"),
        ({"flavour": "tensorrt_rtx"}, "flavour is tensorrt_rtx, wanted tensorrt"),
    ],
)
def test_an_engine_for_something_else_is_explained_field_by_field(
    eleven: Rig, changes: dict[str, Any], message: str
) -> None:
    eleven.add(eleven.key(**changes))
    with pytest.raises(BundleError, match=message):
        eleven.open()


def test_the_nearest_of_several_engines_is_explained(eleven: Rig) -> None:
    eleven.add(eleven.key(precision="fp16", version="9.1"))
    near = eleven.add(eleven.key(version="9.2"))
    with pytest.raises(BundleError, match=rf"{near.name}: version is 9\.2.* \(and 1 others\)"):
        eleven.open()


def test_sizes_that_no_profile_covers_are_explained(eleven: Rig) -> None:
    entry = eleven.add()
    session = eleven.open()
    message = rf"{entry.name}: input is 1x3x65x70, it takes 1x3x1x1 to 2x3x16x16"
    with pytest.raises(BundleError, match=message) as missed:
        session.run(feeds_of(65, 70))
    session.close()
    assert missed.value.build is not None
    assert missed.value.build["scale"] == (2, 2)
    assert missed.value.build["shapes"] == {
        "min": (1, 3, 1, 1),
        "opt": (1, 3, 65, 70),
        "max": (2, 3, 65, 70),
    }


def test_a_window_that_no_profile_covers_is_explained(session: TensorrtSession) -> None:
    with pytest.raises(BundleError, match="geometry is 4x5x8000x10000x0x0x0x0x8000x10000, it"):
        session.run(feeds_of(4, 5, scale=2000))


def test_a_damaged_engine_never_reaches_the_library(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = rig.add()
    path = rig.bundle.path / entry.name
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    monkeypatch.setattr(rig.module, "Runtime", None)
    with pytest.raises(IntegrityError, match=r"\.engine is damaged: sha256"):
        rig.open()


def test_a_closed_session_is_refused(eleven: Rig) -> None:
    eleven.add()
    session = eleven.open()
    session.close()
    with pytest.raises(UsageError, match="the session is closed"):
        session.run(feeds_of(4, 5))


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt_rtx"])
def test_the_empty_package_of_the_stubs_is_found_out(
    monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setitem(sys.modules, backend, tensorrt_stubs())
    with pytest.raises(
        BackendError, match=r"is an empty package \(tensorrt-stubs\); pip install"
    ):
        load_library(backend)


@pytest.mark.parametrize(
    ("backend", "extra"), [("tensorrt", "tensorrt"), ("tensorrt_rtx", "tensorrt-rtx")]
)
def test_a_library_that_is_not_there_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch, backend: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, backend, None)
    message = re.escape(f"{backend} is not installed; {pip_command(extra)}")
    with pytest.raises(BackendError, match=message):
        load_library(backend)


@pytest.mark.gpu
def test_a_real_engine_gives_what_onnx_runtime_gives(gpu: Device, bundle: Bundle) -> None:
    session = real_session(bundle, gpu)
    feeds = feeds_of(12, 15, 3)
    cpu = expected(bundle, feeds)
    np.testing.assert_allclose(session.run(feeds), cpu, atol=1e-4)
    np.testing.assert_allclose(session.run_device(feeds).numpy(), cpu, atol=1e-4)
    session.close()
