"""The step size alpha: fixed or learnable, the same for all predictions or drawn per prediction."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class StepSize(nn.Module):
    """``alpha = initial * exp(log_scale)``, so that it stays positive and learns at one rate whatever its start."""

    def __init__(self, initial: float, learnable: bool = True) -> None:
        super().__init__()
        if not initial > 0:
            raise ValueError(f"step size is {initial}: give a positive number")
        self.initial = initial
        self.log_scale = nn.Parameter(torch.zeros(()), requires_grad=learnable)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StepSize:
        """Moved and converted like any module, but never below 32 bits: its updates would be lost in rounding."""
        super()._apply(fn, recurse)
        if self.log_scale.dtype.itemsize < 4:
            self.log_scale.data = self.log_scale.data.float()
        return self

    def forward(self) -> Tensor:
        return self.initial * self.log_scale.exp()

    def draw(self, predictions: tuple[int, ...], spread: float, generator: torch.Generator | None = None) -> Tensor:
        """One alpha per prediction, uniform in [alpha / spread, alpha * spread] (paper, section 3.2); 1 gives alpha itself."""
        alpha = self()
        if spread == 1:
            return alpha
        uniform = torch.rand(predictions, generator=generator, device=alpha.device, dtype=alpha.dtype)
        return alpha / spread + uniform * (alpha * spread - alpha / spread)
