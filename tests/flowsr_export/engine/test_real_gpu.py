"""Engines on the GPU of this machine, with the TensorRT that is installed."""

import json
from pathlib import Path

import pytest

from flowsr_export.engine.build import (
    EngineRequest,
    LayerFiles,
    SizeSpec,
    build_engine,
    plan_engine,
)
from flowsr_export.engine.builder import Settings
from flowsr_export.engine.library import load_library
from flowsr_export.engine.qualification import loads_here
from flowsr_runtime import Bundle
from flowsr_runtime.cuda.device import Device
from flowsr_runtime.errors import BackendError, ProviderError
from tests.flowsr_export.engine.engines import convolving_bundle, with_golden_pair

pytestmark = pytest.mark.gpu
REQUEST = EngineRequest("fp32", SizeSpec(pictures=((32, 48),), scales=("2",)), Settings())


def test_an_engine_of_this_gpu_runs_before_it_is_stored(gpu: Device, tmp_path: Path) -> None:
    plain = Bundle.open(convolving_bundle(tmp_path / "plain", "fp32"))
    bundle = with_golden_pair(tmp_path / "golden", plain)
    try:
        chosen = load_library("auto", gpu)
        plan = plan_engine(bundle.manifest, bundle, chosen, REQUEST, gpu)
    except (BackendError, ProviderError) as error:
        pytest.skip(f"needs a TensorRT that builds for {gpu.name}: {error}")
    if plan.key is None or not loads_here(plan.key, chosen, gpu):
        pytest.skip(f"{chosen} builds no engine for {gpu.compute_capability}")
    files = LayerFiles(tmp_path / "layers.json", tmp_path / "profile.json")
    facts = build_engine(bundle, plan, files=files).entry.facts
    assert facts["qualified"] is True
    assert facts["qualification"]["golden"]["max_abs"] < 1e-4
    assert len(json.loads((tmp_path / "profile.json").read_text())) > 1
