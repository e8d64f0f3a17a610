"""The latent module of SRFlow-LP: one U-Net for each latent."""

__all__ = ["Branch", "SrflowPrior", "srflow_prior_from_spec"]

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from flowsr_lp.linf.encoder import DenseBlock
from flowsr_lp.linf.prior import DoubleConv, PointwiseOut, pass_levels, unet_levels
from flowsr_runtime.errors import CheckpointError

TINY = 1e-8  # added to a standard deviation
DEFAULTS: dict[str, Any] = {"in_chans": [6, 96], "depth": 3, "dim": 64}


class Branch(NamedTuple):
    """The parts of one U-Net, in the order in which a latent passes them."""

    input_proj: DenseBlock
    inc: DoubleConv
    down_layers: nn.ModuleList
    up_layers: nn.ModuleList
    outc: PointwiseOut


class SrflowPrior(nn.Module):
    """Predicts each latent from the encoded one; spec/srflow.md "Learned prior".

    Attributes:
        in_chans: Channels of the latents, the finest first.
        reduction: Latent rows per row of the deepest level.
    """

    def __init__(
        self, in_chans: Sequence[int] = (6, 96), depth: int = 3, dim: int = 64
    ) -> None:
        """Build a U-Net of `depth` levels with `dim` channels at the top for each latent."""
        super().__init__()
        self.in_chans = tuple(in_chans)
        self.reduction = 1 << depth
        for index, channels in enumerate(in_chans):
            down_layers, up_layers = unet_levels(depth, dim)
            branch = Branch(
                DenseBlock(channels, dim, dim),
                DoubleConv(dim, dim, dim),
                down_layers,
                up_layers,
                PointwiseOut(dim, channels),
            )
            for name, module in branch._asdict().items():
                self.add_module(f"{name}{index}", module)

    def branch(self, index: int) -> Branch:
        """Return the U-Net of one latent, the finest one's is 0."""
        return Branch(*(cast(Any, self.get_submodule(f"{n}{index}")) for n in Branch._fields))

    def forward(self, latents: Sequence[Tensor]) -> list[Tensor]:
        """Predict the latents to decode.

        Args:
            latents: Encoded latents, the finest first, each (B, D, rows, cols).

        Returns:
            Latents of the same shapes.
        """
        outs = []
        for index, latent in enumerate(latents):
            branch = self.branch(index)
            outs.append(pass_levels(branch.input_proj(_normalized(latent)), *branch[1:]))
        return outs


def srflow_prior_from_spec(spec: Mapping[str, Any]) -> SrflowPrior:
    """Build the latent module that a checkpoint's `prior_model` names.

    Args:
        spec: `{"name": "unet", "args": {...}}` as in a released checkpoint.

    Raises:
        CheckpointError: If the name or an argument is unknown.
    """
    name, args = spec.get("name"), dict(spec.get("args") or {})
    if name != "unet":
        raise CheckpointError(f"prior of an SRFlow model must be unet, got {name!r}")
    if args.pop("bilinear", True) is not True:
        raise CheckpointError("prior unet must be bilinear, got transposed convolutions")
    if unknown := set(args) - set(DEFAULTS):
        raise CheckpointError(f"prior unet has no argument {', '.join(sorted(unknown))}")
    return SrflowPrior(**(DEFAULTS | args))


def _normalized(z: Tensor) -> Tensor:
    """Bring each position of (B, D, rows, cols) to mean 0, deviation 1 over its channels."""
    return (z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True) + TINY)
