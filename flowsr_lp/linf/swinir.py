"""SwinIR without its up-sampler: attention in windows (arXiv 2108.10257)."""

__all__ = ["WINDOW", "SwinIR", "continued_size"]

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WINDOW = 8
"""Side of an attention window, in low-resolution pixels."""

SHIFT = WINDOW // 2
MASKED = -100.0  # score of pixels that do not attend to each other; its exponential is 0
CONV_SLOPE = 0.01  # of the LeakyReLU behind the last convolution


def continued_size(side: int) -> int:
    """Return the side of an image that is continued to a whole window more, in pixels."""
    return (side // WINDOW + 1) * WINDOW


class SwinIR(nn.Module):
    """SwinIR's body; spec/linf.md "Encoders" and its last section."""

    def __init__(
        self,
        embed_dim: int = 180,
        depths: tuple[int, ...] = (6, 6, 6, 6, 6, 6),
        num_heads: int = 6,
        mlp_ratio: int = 2,
        num_feat: int = 64,
    ) -> None:
        """Build the network.

        Args:
            embed_dim: Channels of the body, a multiple of `num_heads`.
            depths: Blocks of attention in each group.
            num_heads: Heads of attention in every block.
            mlp_ratio: Channels between the two layers of a block's perceptron, in `embed_dim`.
            num_feat: Channels of the features.
        """
        super().__init__()
        self.out_dim = num_feat
        self.embed_dim, self.depths, self.num_heads = embed_dim, tuple(depths), num_heads
        self.conv_first = nn.Conv2d(3, embed_dim, 3, padding=1)
        self.patch_embed = PatchEmbed(embed_dim)
        self.layers = nn.ModuleList(
            Group(embed_dim, depth, num_heads, mlp_ratio) for depth in depths
        )
        self.norm = Norm(embed_dim)
        self.conv_after_body = nn.Conv2d(embed_dim, embed_dim, 3, padding=1)
        self.conv_before_upsample = nn.Sequential(
            nn.Conv2d(embed_dim, num_feat, 3, padding=1), nn.LeakyReLU(CONV_SLOPE)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute the features of an image that is continued to whole windows.

        Args:
            x: Normalized image, (B, 3, h, w).

        Returns:
            Features, (B, num_feat, continued_size(h), continued_size(w)). The image is followed
            by its mirror image, so that the queries of its last half pixel read features as
            the others do.
        """
        return self.windows(mirrored(mirrored(x, 2), 3))

    def windows(self, x: Tensor) -> Tensor:
        """Map whole windows (B, 3, h, w) to features (B, num_feat, h, w)."""
        first = self.conv_first(x)
        tokens = self.patch_embed(first.permute(0, 2, 3, 1))
        mask = shift_mask(x.shape[2] // WINDOW, x.shape[3] // WINDOW, x.device)
        mask = mask.repeat(x.shape[0], 1, 1).unsqueeze(1)
        for layer in self.layers:
            tokens = layer(tokens, mask)
        body = self.conv_after_body(self.norm(tokens).permute(0, 3, 1, 2))
        out: Tensor = self.conv_before_upsample(body + first)
        return out


class Norm(nn.LayerNorm):
    """Layer normalization of the last dimension, in float32 whatever the type of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `x`."""
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x)


class PatchEmbed(nn.Module):
    """Normalization of the first features; a patch is one pixel."""

    def __init__(self, width: int) -> None:
        """Build the normalization of `width` channels."""
        super().__init__()
        self.norm = Norm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Normalize (B, h, w, C)."""
        out: Tensor = self.norm(tokens)
        return out


class Group(nn.Module):
    """Blocks of attention, a convolution and the input: a residual Swin Transformer block."""

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: int) -> None:
        """Build `depth` blocks and the convolution."""
        super().__init__()
        self.residual_group = Blocks(width, depth, heads, mlp_ratio)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Map (B, h, w, C) to the same shape; for `mask` see `Attention`."""
        x = self.residual_group(tokens, mask)
        out: Tensor = self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) + tokens
        return out


class Blocks(nn.Module):
    """Blocks of attention, one after the other."""

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: int) -> None:
        """Build `depth` blocks; the windows of every second one are shifted."""
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio, shifted=i % 2 == 1) for i in range(depth)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map (B, h, w, C) to the same shape; for `mask` see `Attention`."""
        for block in self.blocks:
            x = block(x, mask)
        return x


class Block(nn.Module):
    """Attention within windows, then a perceptron, each on normalized input and added to it."""

    def __init__(self, width: int, heads: int, mlp_ratio: int, *, shifted: bool) -> None:
        """Build the block."""
        super().__init__()
        self.shifted = shifted
        self.norm1 = Norm(width)
        self.attn = Attention(width, heads)
        self.norm2 = Norm(width)
        self.mlp = Perceptron(width, mlp_ratio)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map (B, h, w, C) to the same shape; for `mask` see `Attention`."""
        rows, columns = x.shape[1] // WINDOW, x.shape[2] // WINDOW
        tokens = self.norm1(x)
        if self.shifted:
            tokens = torch.roll(tokens, (-SHIFT, -SHIFT), (1, 2))
        tokens = self.attn(to_windows(tokens, rows, columns), mask if self.shifted else None)
        tokens = from_windows(tokens, rows, columns)
        if self.shifted:
            tokens = torch.roll(tokens, (SHIFT, SHIFT), (1, 2))
        x = x + tokens
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Perceptron(nn.Module):
    """Two layers around an activation."""

    def __init__(self, width: int, ratio: int) -> None:
        """Build the layers, with `ratio` times as many channels between them."""
        super().__init__()
        self.fc1 = nn.Linear(width, ratio * width)
        self.fc2 = nn.Linear(ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to the same shape."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Attention(nn.Module):
    """Attention of every pixel of a window to the others, with a bias by their distance."""

    def __init__(self, width: int, heads: int) -> None:
        """Build the projections and the table of biases, one for each distance and head."""
        super().__init__()
        self.heads = heads
        distances = (2 * WINDOW - 1) ** 2
        self.relative_position_bias_table = nn.Parameter(torch.zeros(distances, heads))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within windows.

        Args:
            x: Windows, (B · windows, 64, C).
            mask: Pairs that do not attend to each other, (B · windows, 1, 64, 64) bool, None
                for none.

        Returns:
            Windows, (B · windows, 64, C).
        """
        count, tokens, width = x.shape[0], WINDOW**2, x.shape[2]
        shape = (count, tokens, self.heads, width // self.heads)
        query, key, value = (
            part.reshape(shape).transpose(1, 2) for part in self.qkv(x).split(width, dim=-1)
        )
        query = query * (width // self.heads) ** -0.5
        scores = query @ key.transpose(2, 3) + self.bias()
        if mask is not None:
            scores = scores.masked_fill(mask, MASKED)
        out = (F.softmax(scores, dim=-1) @ value).transpose(1, 2).reshape(count, tokens, width)
        attended: Tensor = self.proj(out)
        return attended

    def bias(self) -> Tensor:
        """Return the bias of every pair of pixels, (heads, 64, 64)."""
        table = self.relative_position_bias_table
        pairs = table[distances(table.device).flatten()]
        return pairs.t().reshape(self.heads, WINDOW**2, WINDOW**2)


def distances(device: torch.device | None = None) -> Tensor:
    """Return the row of the table of biases for every pair of pixels of a window, (64, 64)."""
    place = torch.arange(WINDOW**2, device=device)
    row, column = place // WINDOW, place % WINDOW
    down = row[:, None] - row[None] + WINDOW - 1
    right = column[:, None] - column[None] + WINDOW - 1
    return down * (2 * WINDOW - 1) + right


def shift_mask(rows: int, columns: int, device: torch.device | None = None) -> Tensor:
    """Return which pixels of a window only the shift around the edge brought together.

    Args:
        rows: Rows of windows.
        columns: Columns of windows.
        device: Where the tensor is made, the CPU if None.

    Returns:
        Whether a pair of pixels of a window is of two regions, (rows · columns, 64, 64) bool.
    """
    first, second = (_part(count, device) for count in (rows, columns))
    regions = (3 * first[:, None] + second[None])[None, :, :, None]
    region = to_windows(regions, rows, columns).reshape(rows * columns, WINDOW**2)
    return region[:, None] != region[:, :, None]


def _part(windows: int, device: torch.device | None) -> Tensor:
    """Return the part of a shifted axis that every pixel is in, (8 · windows,) int64."""
    place = torch.arange(windows * WINDOW, device=device) - (windows - 1) * WINDOW
    return (place >= 0).long() + (place >= WINDOW - SHIFT).long()


def to_windows(x: Tensor, rows: int, columns: int) -> Tensor:
    """Cut (B, 8 · rows, 8 · columns, C) into (B · rows · columns, 64, C)."""
    # In steps of four dimensions: some libraries know no more.
    width = x.shape[3]
    x = x.reshape(-1, WINDOW, columns, WINDOW * width).transpose(1, 2)
    return x.reshape(-1, WINDOW**2, width)


def from_windows(x: Tensor, rows: int, columns: int) -> Tensor:
    """Join (B · rows · columns, 64, C) to (B, 8 · rows, 8 · columns, C)."""
    width = x.shape[2]
    x = x.reshape(-1, columns, WINDOW, WINDOW * width).transpose(1, 2)
    return x.reshape(-1, rows * WINDOW, columns * WINDOW, width)


def mirrored(x: Tensor, dim: int) -> Tensor:
    """Continue a dimension by its mirror image, last pixel included, to `continued_size`."""
    count = x.shape[dim]
    place = torch.arange(continued_size(count), device=x.device)
    period = torch.full((), 2 * count, device=x.device)
    # A side of one pixel has the most periods, four. Inductor fails on a quotient of tensors.
    place = place - period * sum((place >= n * period).long() for n in range(1, WINDOW // 2))
    return x.index_select(dim, torch.minimum(place, period - 1 - place))
