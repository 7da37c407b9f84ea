"""Patches of images: cutting, joining, embedding and positions.

Shapes: B rows, C channels, H x W pixels, p patch size, S = H/p x W/p patches in row-major order, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def patchify(image: Tensor, patch: int) -> Tensor:
    """Cut images (B, C, H, W) into patches (B, S, C p p), each laid out as channel, row, column.

    Raises:
        ValueError: If the height or width is not a multiple of the patch size.
    """
    rows, columns = grid(image, patch)
    cut = image.unflatten(-2, (rows, patch)).unflatten(-1, (columns, patch))  # (B, C, rows, p, columns, p)
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, patch: int, rows: int, columns: int) -> Tensor:
    """Join patches (B, S, p p C), each laid out as row, column, channel, to images (B, C, H, W)."""
    cut = patches.unflatten(1, (rows, columns)).unflatten(-1, (patch, patch, -1))  # (B, rows, columns, p, p, C)
    return cut.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def grid(image: Tensor, patch: int) -> tuple[int, int]:
    """Number of rows and columns of patches in images (..., H, W).

    Raises:
        ValueError: If the height or width is not a multiple of the patch size.
    """
    height, width = image.shape[-2:]
    if height % patch or width % patch or not height or not width:
        raise ValueError(f"images of {height} x {width} pixels cannot be cut into patches of {patch} x {patch}: pad them")
    return height // patch, width // patch


def fixed_positions(rows: int, columns: int, dim: int) -> Tensor:
    """Sines and cosines (S, D) of each patch's column (first half) and row (second half).

    Raises:
        ValueError: If ``dim`` is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"dim {dim} must be a multiple of 4, for sines and cosines of rows and columns: change dim")
    frequency = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.flatten().unsqueeze(-1) * frequency for place in (column, row)]
    waves = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], -1)
    return waves.to(torch.get_default_dtype())


class PatchEmbedding(nn.Module):
    """A linear embedding of patches, with fixed positions that are saved with the weights."""

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
        """Position embeddings (S, D) for images (B, C, H, W) of any size that the patch size divides."""
        rows, columns = grid(image, self.patch)
        if (rows, columns) == (self.side, self.side):
            return self.positions
        return fixed_positions(rows, columns, self.dim).to(self.positions)
