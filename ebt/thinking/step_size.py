"""The step size alpha: fixed or learnable, the same for all predictions or drawn per prediction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from ebt.thinking.noise import precise


class StepSize(nn.Module):
    """``alpha = initial * exp(log_scale)``, so that it stays positive and learns at one rate whatever its start.

    It keeps float32 where a model is turned into 16 bits, which would round its updates away.

    Raises:
        ValueError: ``initial`` is not positive.
    """

    def __init__(self, initial: float, learnable: bool = True) -> None:
        super().__init__()
        if not initial > 0:
            raise ValueError(f"step size is {initial}: give a positive number")
        self.initial = initial
        self.log_scale = nn.Parameter(torch.zeros(()), requires_grad=learnable)

    def forward(self) -> Tensor:
        return self.initial * precise(self.log_scale).exp()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What ``to`` and its like do to all parameters."""

        def convert(tensor: Tensor) -> Tensor:
            changed = fn(tensor)
            rounded = changed.is_floating_point() and changed.dtype.itemsize < 4
            return tensor.to(changed.device, torch.float32) if rounded else changed

        return super()._apply(convert, recurse)


def draw(
    step_size: StepSize | Tensor | float,
    predictions: tuple[int, ...],
    spread: float,
    generator: torch.Generator | None,
    like: Tensor,
) -> Tensor:
    """One alpha per prediction, uniform in [alpha / spread, alpha * spread] (paper, section 3.2); 1 gives alpha itself."""
    alpha = step_size() if isinstance(step_size, StepSize) else torch.as_tensor(step_size, dtype=like.dtype, device=like.device)
    if spread == 1:
        return alpha
    uniform = torch.rand(predictions, generator=generator, device=alpha.device, dtype=alpha.dtype)
    return alpha / spread + uniform * (alpha * spread - alpha / spread)
