"""Libraries and precisions of a bundle's engines, as candidates of a session."""

from typing import Any

import pytest

from flowsr_runtime import Bundle, SessionSettings
from flowsr_runtime.backends.engines.candidates import engine_candidates
from flowsr_runtime.bundle.engine_store import EngineStore
from tests.flowsr_runtime.bundle.engine_keys import key

ORDER = ("fp16", "fp32")
CPU = ("cpu-x86_64-avx2-00000000",)


def add(bundle: Bundle, *, qualified: bool = True, **changes: Any) -> None:
    EngineStore(bundle.path).add(key(**changes), b"x", {"qualified": qualified})


def candidates(bundle: Bundle, **changes: Any) -> list[tuple[str, str]]:
    settings: dict[str, Any] = {
        "backend": None,
        "precision": None,
        "order": ORDER,
        "preferred": lambda: "fp32",
        "on_cpu": False,
        "required": True,
    }
    return engine_candidates(bundle, **{**settings, **changes})


@pytest.fixture
def filled(bundle: Bundle) -> Bundle:
    """Engines of TensorRT for RTX and of Inductor, two of those for a CPU."""
    add(bundle, precision="fp32")
    add(bundle, flavour="inductor", precision="fp16")
    add(bundle, flavour="inductor", precision="fp16", compute_capability=CPU)
    add(bundle, flavour="inductor", precision="fp32", compute_capability=CPU)
    return bundle


def test_tensorrt_comes_before_inductor_on_a_gpu(filled: Bundle) -> None:
    assert candidates(filled) == [("tensorrt_rtx", "fp32"), ("inductor", "fp16")]


def test_on_a_cpu_only_an_engine_as_precise_as_the_graph_is_taken(filled: Bundle) -> None:
    assert candidates(filled, on_cpu=True) == [("inductor", "fp32")]
    named = candidates(filled, on_cpu=True, backend="inductor")
    assert named == [("inductor", "fp16"), ("inductor", "fp32")]


def test_a_named_precision_is_kept(filled: Bundle) -> None:
    assert candidates(filled, precision="fp16") == [("inductor", "fp16")]
    assert candidates(filled, on_cpu=True, precision="fp16") == [("inductor", "fp16")]


def test_an_engine_that_never_ran_is_taken_by_name_alone(bundle: Bundle) -> None:
    add(bundle, flavour="inductor", qualified=False)
    assert candidates(bundle) == []
    assert candidates(bundle, backend="inductor") == [("inductor", "fp16")]


def test_a_named_library_without_an_engine_is_tried_where_required(bundle: Bundle) -> None:
    assert candidates(bundle, backend="tensorrt") == [("tensorrt", "fp32")]
    assert candidates(bundle, backend="inductor", required=False) == []
    assert candidates(bundle) == []


def test_an_index_of_a_gpu_means_a_gpu(bundle: Bundle) -> None:
    found = SessionSettings("inductor", device=3).candidates(bundle)
    assert [(one.backend, one.provider, one.index) for one in found] == [
        ("inductor", "cuda", 3)
    ]
