"""Keys are equal only if all fields are, and give safe file names."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowsr_runtime.bundle.engine_key import EngineKey, LoadTarget, Range, canonical
from flowsr_runtime.errors import UsageError
from tests.flowsr_runtime.bundle.engine_keys import CHANGES, FIELDS, key, keys

TARGET = LoadTarget("a" * 64, "tensorrt_rtx", "1.7.1.116", "8.9", "fp16")


@given(keys())
def test_a_key_comes_back_from_json(one: EngineKey) -> None:
    again = EngineKey.parse(json.loads(json.dumps(one.fields())))
    assert again == one
    assert again.digest() == one.digest()
    assert hash(again) == hash(one)


@given(keys())
def test_a_file_name_stays_inside_the_bundle(one: EngineKey) -> None:
    name = one.file_name()
    suffix = "pt2" if one.flavour == "inductor" else "engine"
    assert re.fullmatch(rf"engines/[a-z0-9_-]{{1,150}}\.{suffix}", name)
    assert one.digest()[:12] in name


def test_the_file_name_says_what_the_engine_is_for() -> None:
    name = key().file_name()
    assert re.fullmatch(r"engines/tensorrt_rtx-sm89-fp16-1x3x64x64-[0-9a-f]{12}\.engine", name)
    assert "-portable-" in key(compute_capability=()).file_name()
    assert "-sm86_sm120-" in key(compute_capability=("12.0", "8.6")).file_name()
    assert "-static-" in key(profiles=()).file_name()


@pytest.mark.parametrize("field", CHANGES)
def test_one_changed_field_makes_another_key(field: str) -> None:
    changed = key(**{field: CHANGES[field]})
    assert changed != key()
    assert changed.file_name() != key().file_name()


@given(keys(), keys(), st.sampled_from(sorted(FIELDS)))
def test_any_other_value_of_any_field_makes_another_key(
    one: EngineKey, other: EngineKey, field: str
) -> None:
    changed = replace(one, **{field: getattr(other, field)})
    same = canonical(one.fields()[field]) == canonical(other.fields()[field])
    assert (changed == one) is same


def test_the_order_of_names_makes_no_difference() -> None:
    first, second = Range((1,), (2,), (3,)), Range((4,), (5,), (6,))
    one = key(profiles=({"a": first, "b": second},), options={"x": 1, "y": 2})
    two = key(profiles=({"b": second, "a": first},), options={"y": 2, "x": 1})
    assert one == two


def test_the_order_of_profiles_makes_a_difference() -> None:
    first, second = {"a": Range((1,), (2,), (3,))}, {"a": Range((4,), (5,), (6,))}
    assert key(profiles=(first, second)) != key(profiles=(second, first))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"onnx_sha256": "A" * 64}, "onnx_sha256 must be 64 hexadecimal digits, got 'AAA"),
        (
            {"flavour": "../x"},
            r"flavour must be tensorrt, tensorrt_rtx or inductor, got '\.\./x'",
        ),
        ({"version": ""}, "version must be a text, got ''"),
        ({"gpu_name": 3}, "gpu_name must be a text or None, got 3"),
        ({"precision": "../fp16"}, r"precision must be lower-case letters and digits, got"),
        ({"compute_capability": ("sm89",)}, r"compute_capability must be like 8\.9, got 'sm"),
        ({"compute_capability": "8.9"}, r"compute_capability must be like 8\.9, got '8'"),
        ({"options": {"a": 0.5}}, r"option a must be text or a number, got 0\.5"),
        ({"profiles": ({"input": 3},)}, "profile must hold ranges by input, got 'input': 3"),
    ],
)
def test_a_wrong_field_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        key(**changes)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (((2,), (1,), (3,)), r"min <= opt <= max in every dimension, got \(2,\), \(1,\)"),
        (((1, 1), (1,), (3,)), "min <= opt <= max in every dimension"),
        (((-1,), (1,), (3,)), r"min of a range must be whole numbers from 0, got \(-1,\)"),
        (((), (), ()), "min of a range must be whole numbers from 0"),
        (((1,), (True,), (3,)), "opt of a range must be whole numbers from 0"),
    ],
)
def test_a_wrong_range_is_refused(sizes: tuple[Any, Any, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Range(*sizes)


def test_a_range_covers_what_lies_in_it() -> None:
    one = Range((1, 4), (1, 8), (2, 16))
    assert one.covers((1, 4))
    assert one.covers((2, 16))
    assert not one.covers((3, 16))
    assert not one.covers((1, 3))
    assert not one.covers((1,))


def test_a_device_loads_an_engine_that_was_made_for_it() -> None:
    assert key().incompatibilities(TARGET) == {}
    assert key(compute_capability=("8.6", "8.9")).incompatibilities(TARGET) == {}
    assert key(compute_capability=()).incompatibilities(TARGET) == {}
    named = replace(TARGET, gpu_name="NVIDIA L4")
    assert key(gpu_name="NVIDIA L4").incompatibilities(named) == {}


@pytest.mark.parametrize(
    ("changes", "misfits"),
    [
        ({"onnx_sha256": "b" * 64}, {"onnx_sha256": ("a" * 64, "b" * 64)}),
        ({"flavour": "tensorrt"}, {"flavour": ("tensorrt_rtx", "tensorrt")}),
        ({"version": "1.6.0.1"}, {"version": ("1.7.1.116", "1.6.0.1")}),
        ({"precision": "fp32"}, {"precision": ("fp16", "fp32")}),
        ({"compute_capability": ("8.6",)}, {"compute_capability": ("8.9", "8.6")}),
        ({"gpu_name": "NVIDIA L4"}, {"gpu_name": ("any", "NVIDIA L4")}),
    ],
)
def test_a_misfit_names_its_field(
    changes: dict[str, Any], misfits: dict[str, tuple[str, str]]
) -> None:
    assert key(**changes).incompatibilities(TARGET) == misfits


@pytest.mark.parametrize(
    ("capability", "runs"), [("7.5", False), ("9.0", False), ("8.0", True), ("12.1", True)]
)
def test_a_portable_engine_needs_8_0_and_a_gpu_of_its_library(
    capability: str, runs: bool
) -> None:
    target = replace(TARGET, compute_capability=capability)
    refused = {"compute_capability": (capability, "portable (8.0 up, no 9.0)")}
    assert key(compute_capability=()).incompatibilities(target) == ({} if runs else refused)


@pytest.mark.parametrize(
    ("built", "here", "loads"),
    [
        ("10.13.0.1", "10.14.1.2", True),
        ("10.13.0.1", "10.13.0.1", True),
        ("10.14.0.1", "10.13.0.1", False),
        ("10.13.0.1", "11.0.0.1", False),
        ("9.3.0", "10.13.0.1", False),
    ],
)
def test_a_version_compatible_engine_loads_in_later_versions_of_its_major(
    built: str, here: str, loads: bool
) -> None:
    one = key(version=built, options={"version_compatible": True})
    assert (one.incompatibilities(replace(TARGET, version=here)) == {}) is loads
