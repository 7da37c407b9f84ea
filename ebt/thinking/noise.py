"""Random numbers: what starts and Langevin noise (paper, equation 5) are drawn from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Source = Callable[[Tensor], Tensor]
"""Standard normal draws in the shape of a tensor (N, *P, K)."""


class Draws(Protocol):
    """Draws of a whole descent (``Rows`` in training, ``Places`` at inference)."""

    def at(self, step: int, /) -> Source:
        """Those before one step."""

    def of(self, rows: slice, /) -> Draws:
        """Those of some rows."""


def precise(tensor: Tensor) -> Tensor:
    """The tensor in float32 at least, as states, energies, losses and step sizes are in any precision of the weights."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def draw_normal(shape: tuple[int, ...], like: Tensor, source: torch.Generator | Source | None) -> Tensor:
    """Standard normal draws of ``shape`` on the device of ``like``, with its dtype if that is precise."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    if source is None or isinstance(source, torch.Generator):
        return torch.randn(shape, generator=source, dtype=dtype, device=like.device)
    return source(torch.empty(shape, dtype=dtype, device=like.device))
