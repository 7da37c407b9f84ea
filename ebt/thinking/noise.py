"""Random numbers for starts and Langevin noise (paper, equation 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Source = Callable[[Tensor], Tensor]
"""A function that draws standard normal values with the shape of a tensor (N, *P, K)."""


class Draws(Protocol):
    """Random draws for a whole descent (``Rows`` in training, ``Places`` at inference)."""

    def at(self, step: int, /) -> Source:
        """Draws before one step."""

    def of(self, rows: slice, /) -> Draws:
        """Draws for some rows."""


def precise(tensor: Tensor) -> Tensor:
    """Convert to at least float32, the precision of states, energies, losses and step sizes whatever that of the weights."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def broadcastable(value: Tensor, dims: int) -> Tensor:
    """Append dimensions of size 1 until the tensor has ``dims`` dimensions."""
    return value.reshape(*value.shape, *[1] * (dims - value.dim()))


def draw_normal(shape: tuple[int, ...], like: Tensor, source: torch.Generator | Source | None) -> Tensor:
    """Draw standard normal values of ``shape`` on the device of ``like``, with its dtype but at least float32."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    if source is None or isinstance(source, torch.Generator):
        return torch.randn(shape, generator=source, dtype=dtype, device=like.device)
    return source(torch.empty(shape, dtype=dtype, device=like.device))
