"""Keys of engines for the tests: one that is plain, any that hypothesis thinks of, changes."""

from typing import Any

from hypothesis import strategies as st

from flowsr_runtime.bundle.engine_key import FLAVOURS, EngineKey, Range

__all__ = ["CHANGES", "FIELDS", "key", "keys"]

FIELDS: dict[str, Any] = {
    "onnx_sha256": "a" * 64,
    "flavour": "tensorrt_rtx",
    "version": "1.7.1.116",
    "compute_capability": ("8.9",),
    "gpu_name": None,
    "precision": "fp16",
    "profiles": (
        {
            "input": Range((1, 3, 8, 8), (1, 3, 64, 64), (1, 3, 256, 256)),
            "geometry": Range((1,) * 10, (64,) * 10, (4096,) * 10),
        },
    ),
    "options": {"workspace": 4 << 30, "tf32": True, "note": "x"},
}

# Every field, and every part of a field, with another value.
CHANGES: dict[str, Any] = {
    "onnx_sha256": "b" * 64,
    "flavour": "tensorrt",
    "version": "1.7.1.117",
    "compute_capability": ("8.9", "12.0"),
    "gpu_name": "NVIDIA L4",
    "precision": "fp32",
    "profiles": (
        {
            "input": Range((1, 3, 8, 8), (1, 3, 64, 64), (1, 3, 256, 257)),
            "geometry": Range((1,) * 10, (64,) * 10, (4096,) * 10),
        },
    ),
    "options": {"workspace": 4 << 30, "tf32": 1, "note": "x"},
}


def key(**changes: Any) -> EngineKey:
    """Return a key of the same fields each time, but for those that are given."""
    return EngineKey(**{**FIELDS, **changes})


def ranges() -> st.SearchStrategy[Range]:
    """Any range."""
    sizes = st.lists(st.lists(st.integers(0, 2**40), min_size=3, max_size=3), min_size=1)
    return sizes.map(lambda rows: Range(*(tuple(each) for each in zip(*map(sorted, rows)))))  # noqa: B905  # three of each


def keys() -> st.SearchStrategy[EngineKey]:
    """Any key."""
    names = st.text(min_size=1, max_size=8).filter(lambda text: "\n" not in text)
    capability = st.tuples(st.integers(7, 13), st.integers(0, 9)).map(
        lambda x: f"{x[0]}.{x[1]}"
    )
    return st.builds(
        EngineKey,
        onnx_sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
        flavour=st.sampled_from(FLAVOURS),
        version=st.from_regex(r"[0-9]{1,2}(\.[0-9]{1,3}){1,3}", fullmatch=True),
        compute_capability=st.lists(capability, max_size=9).map(tuple),
        gpu_name=st.none() | names,
        precision=st.sampled_from(["fp16", "fp32", "bf16", "int8"]),
        profiles=st.lists(st.dictionaries(names, ranges(), max_size=2), max_size=2).map(tuple),
        options=st.dictionaries(names, st.booleans() | st.integers() | names, max_size=3),
    )
