"""The optimiser of every task: AdamW, warm-up, cosine decay, clipping by the global norm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ebt.thinking import StepSize


@dataclass(frozen=True)
class Optimisation:
    """AdamW and its schedule.

    Raises:
        ValueError: a setting outside its range.
    """

    lr: float = 3e-3
    step_size_lr: float = 1.0
    """Learning rate of the (logarithm of the) step size, as a multiple of ``lr``."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    """Of the matrices alone: not of norms, embeddings and the step size."""
    warmup_steps: int = 50
    """Updates of linear warm-up."""
    min_lr_ratio: float = 0.1
    """What the cosine leaves of the learning rate at the last update; 1 keeps it constant."""
    clip: float | None = 1.0
    """Largest global norm of the gradient; null for no clipping."""

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.step_size_lr < 0:
            raise ValueError(f"lr {self.lr} and step_size_lr {self.step_size_lr}: give a positive lr, and 0 or more")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas is {self.betas}: both must be in [0, 1)")
        if self.weight_decay < 0 or self.warmup_steps < 0:
            raise ValueError(f"weight_decay {self.weight_decay}, warmup_steps {self.warmup_steps}: neither may be negative")
        if not 0 <= self.min_lr_ratio <= 1:
            raise ValueError(f"min_lr_ratio is {self.min_lr_ratio}: give a share of lr, in [0, 1]")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip is {self.clip}: give a positive norm, or null for no clipping")

    def optimiser(self, module: nn.Module, fused: bool = True) -> AdamW:
        """AdamW with a group each for matrices, for what does not decay, and for step sizes.

        ``fused`` is faster, and unscales the gradients of 16-mixed precision itself, so that they cannot be clipped before.
        """
        groups: dict[str, list[nn.Parameter]] = {"decay": [], "plain": [], "step_size": []}
        for kind, parameter in _kinds(module):
            groups[kind].append(parameter)
        settings: dict[str, dict[str, float]] = {
            "decay": {"weight_decay": self.weight_decay},
            "plain": {"weight_decay": 0.0},
            "step_size": {"weight_decay": 0.0, "lr": self.lr * self.step_size_lr},
        }
        filled = [{"params": groups[kind], **settings[kind], "name": kind} for kind in groups if groups[kind]]
        return AdamW(filled, lr=self.lr, betas=self.betas, fused=fused)

    def schedule(self, optimiser: Optimizer, updates: float, second: int = 0) -> LambdaLR:
        """Warm-up, then a cosine down to ``min_lr_ratio`` at the last of ``updates``; all of it from update ``second`` on, and
        before that a warm-up without decay."""
        return LambdaLR(optimiser, lambda step: self.ratio(step, updates, second))

    def ratio(self, step: int, updates: float, second: int = 0) -> float:
        """Learning rate at update ``step`` (0, 1, ...) as a share of ``lr``."""
        if second:
            return self.ratio(step, math.inf) if step < second else self.ratio(step - second, updates - second)
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.min_lr_ratio == 1 or math.isinf(updates):
            return 1.0
        done = min(1.0, (step - self.warmup_steps) / max(1, updates - 1 - self.warmup_steps))
        return self.min_lr_ratio + (1 - self.min_lr_ratio) * (1 + math.cos(math.pi * done)) / 2


def _kinds(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every trainable parameter once, with its group."""
    seen: set[Any] = set()
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            if parameter in seen or not parameter.requires_grad:
                continue
            seen.add(parameter)
            if isinstance(part, StepSize):
                yield "step_size", parameter
            else:
                yield ("plain" if isinstance(part, nn.Embedding) or parameter.dim() < 2 else "decay"), parameter
