import torch

from flowsr_lp.srflow.published_order import PublishedSrflow
from tests.flowsr_export.networks import small_srflow
from tests.stand_in import tensor


@torch.inference_mode()
def test_the_published_order_gives_what_the_model_gives() -> None:
    network, rgb = small_srflow(), tensor(12, 18)
    output = PublishedSrflow(network)(rgb)
    torch.testing.assert_close(output, network(rgb).output, rtol=0, atol=1e-4)


@torch.inference_mode()
def test_the_published_order_runs_encoder_and_couplings_twice() -> None:
    network, rgb, runs = small_srflow(), tensor(12, 18), list[str]()
    network.srflow.RRDB.register_forward_hook(lambda *_: runs.append("encoder"))
    for level in network.srflow.flowUpsamplerNet.levels:
        coupling = level.steps[-1].affine
        assert coupling is not None
        coupling.fFeatures.register_forward_hook(lambda *_: runs.append("features"))
    PublishedSrflow(network)(rgb)
    assert (runs.count("encoder"), runs.count("features")) == (2, 6)
