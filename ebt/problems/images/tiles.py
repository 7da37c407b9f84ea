"""Images of any size: cut into overlapping tiles of the size that a model was made for, and blended."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

SHARE = 0.75
"""Of a tile lies before the next one."""


def by_tiles(denoise: Callable[[Tensor], Tensor], image: Tensor, size: int, batch_size: int = 32) -> Tensor:
    """Apply a function of tiles (B, C, size, size) to an image (C, H, W) of any size.

    A smaller image is continued by its mirror image, and cropped back. Where tiles overlap, each counts the more the farther
    a pixel lies from the tile's border.
    """
    height, width = image.shape[-2:]
    whole = _grown(image, max(height, size), max(width, size))
    corners = [(top, left) for top in _places(whole.shape[1], size) for left in _places(whole.shape[2], size)]
    pieces = torch.stack([whole[:, top : top + size, left : left + size] for top, left in corners])
    found = torch.cat([denoise(part) for part in pieces.split(batch_size)])
    ramp = 1 + torch.minimum(torch.arange(size), torch.arange(size).flip(0)).to(found)
    window, total, weight = ramp.outer(ramp), torch.zeros_like(whole, dtype=found.dtype), found.new_zeros(whole.shape[1:])
    for (top, left), piece in zip(corners, found, strict=True):
        total[:, top : top + size, left : left + size] += window * piece
        weight[top : top + size, left : left + size] += window
    return (total / weight)[:, :height, :width]


def _grown(image: Tensor, height: int, width: int) -> Tensor:
    """Mirrored again and again, below and to the right, until it is large enough."""
    while image.shape[-2] < height or image.shape[-1] < width:
        more = [min(wanted - length, length) for wanted, length in zip((height, width), image.shape[-2:], strict=True)]
        image = torch.cat((image, image[:, image.shape[1] - more[0] :].flip(1)), 1)
        image = torch.cat((image, image[:, :, image.shape[2] - more[1] :].flip(2)), 2)
    return image


def _places(length: int, size: int) -> list[int]:
    """Where tiles begin, so that the first and the last one touch the border."""
    count = math.ceil((length - size) / (size * SHARE)) + 1
    return [round(i * (length - size) / max(1, count - 1)) for i in range(count)]
