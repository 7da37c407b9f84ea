"""Images as rows of patches: cutting, embedding, positions, and back.

Letters: B rows, C channels, H x W pixels, p patch size, S = H/p x W/p patches in reading order, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def patchify(image: Tensor, patch: int) -> Tensor:
    """Patches (B, S, C p p) of images (B, C, H, W), each laid out channel, row, column.

    Raises:
        ValueError: a height or width that is no multiple of the patch size.
    """
    rows, columns = grid(image, patch)
    cut = image.unflatten(-2, (rows, patch)).unflatten(-1, (columns, patch))  # (B, C, rows, p, columns, p)
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, patch: int, rows: int, columns: int) -> Tensor:
    """Images (B, C, H, W) of patches (B, S, p p C), each laid out row, column, channel."""
    cut = patches.unflatten(1, (rows, columns)).unflatten(-1, (patch, patch, -1))  # (B, rows, columns, p, p, C)
    return cut.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def grid(image: Tensor, patch: int) -> tuple[int, int]:
    """Rows and columns of patches of images (..., H, W).

    Raises:
        ValueError: a height or width that is no multiple of the patch size.
    """
    height, width = image.shape[-2:]
    if height % patch or width % patch or not height or not width:
        raise ValueError(f"images of {height} x {width} pixels cannot be cut into patches of {patch} x {patch}: pad them")
    return height // patch, width // patch


def fixed_positions(rows: int, columns: int, dim: int) -> Tensor:
    """Sines and cosines (S, D) of a patch's column (first half) and row (second half).

    Raises:
        ValueError: a width that four kinds of numbers cannot share.
    """
    if dim % 4:
        raise ValueError(f"dim {dim} must be a multiple of 4: rows and columns need sines and cosines")
    frequency = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.flatten().unsqueeze(-1) * frequency for place in (column, row)]
    waves = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], -1)
    return waves.to(torch.get_default_dtype())


class PatchEmbedding(nn.Module):
    """A linear map of each patch, and where the patch stands: fixed, and saved with the weights."""

    def __init__(self, channels: int, size: int, patch: int, dim: int) -> None:
        super().__init__()
        self.patch, self.side, self.dim = patch, size // patch, dim
        self.projection = nn.Linear(channels * patch * patch, dim)
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        self.positions = nn.Parameter(fixed_positions(self.side, self.side, dim), requires_grad=False)

    def forward(self, image: Tensor) -> Tensor:
        """Embeddings (B, S, D) of images (B, C, H, W), without positions."""
        return self.projection(patchify(image, self.patch))

    def places(self, image: Tensor) -> Tensor:
        """Positions (S, D) of the patches of images (B, C, H, W), of any size that patches divide."""
        rows, columns = grid(image, self.patch)
        if (rows, columns) == (self.side, self.side):
            return self.positions
        return fixed_positions(rows, columns, self.dim).to(self.positions)
