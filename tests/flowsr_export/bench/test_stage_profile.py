"""Every node has a stage, and a profile leads back to them."""

import onnx
import pytest
from onnx import TensorProto, helper

from flowsr_export.bench.stage_profile import stage_seconds
from flowsr_export.deployment.families import deployment_of
from flowsr_export.export_onnx.exporter import onnx_from_deployment
from flowsr_export.inputs.cases import Case
from flowsr_export.inputs.feeds import graph_feeds
from flowsr_export.onnx_graph.stages import STAGES, stages_of
from flowsr_runtime import Bundle
from tests.flowsr_export.conftest import Exported, resizing_graph
from tests.flowsr_export.networks import small_srflow

# Kernels that could not be led back, as a share of the profile.
MOST_OTHER = 0.05


@pytest.fixture(scope="module")
def graph(exported: Exported) -> bytes:
    """The graph of a small LINF-LP bundle."""
    bundle = Bundle.open(exported.bundle)
    return bundle.read(bundle.model_name("fp32"))


def chain(*weights: str) -> onnx.ModelProto:
    """Multiply the input by one weight after another."""
    names = ["input", *(f"x{i}" for i in range(len(weights) - 1)), "output"]
    nodes = [
        helper.make_node("Mul", [names[i], weight], [names[i + 1]])
        for i, weight in enumerate(weights)
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "chain",
        [value("input", TensorProto.FLOAT, [1])],
        [value("output", TensorProto.FLOAT, [1])],
        [helper.make_tensor(name, TensorProto.FLOAT, [1], [1.0]) for name in set(weights)],
    )
    return helper.make_model(graph)


def test_stages_follow_the_weights() -> None:
    weights = ["linf.encoder.w", "linf.tables.0.w", "linf.encode_maps.0.w", "prior.inc.w"]
    stages = stages_of(chain(*weights, "linf.decode_maps.0.w"))
    assert list(stages.values()) == list(STAGES[1:6])


def test_a_coupling_decodes_after_the_prior_and_encodes_before() -> None:
    stages = stages_of(chain("levels.0.steps.0.w", "prior.w", "levels.0.steps.0.w"))
    assert list(stages.values()) == ["flow encode", "prior", "flow decode"]


def test_a_graph_without_modules_names_has_no_stages() -> None:
    assert stages_of(onnx.load_from_string(resizing_graph())) == {}


def test_every_node_of_linf_has_a_stage(graph: bytes) -> None:
    model = onnx.load_from_string(graph)
    stages = stages_of(model)
    assert {stages[name] for node in model.graph.node for name in node.output} == {*STAGES[:7]}
    assert stages["output"] == "fold"


def test_every_node_of_srflow_has_a_stage() -> None:
    model = onnx_from_deployment(deployment_of(small_srflow()))
    assert set(stages_of(model).values()) == {*STAGES[:7]}


def test_a_profile_leads_back_to_the_stages(graph: bytes, exported: Exported) -> None:
    manifest = Bundle.open(exported.bundle).manifest
    feeds = graph_feeds(manifest, Case((12, 12), (30, 30)))
    seconds = stage_seconds(graph, feeds, threads=1, runs=2)
    assert {*STAGES[:7]} <= set(seconds)
    assert seconds.get("other", 0.0) < MOST_OTHER * sum(seconds.values())
