"""Optimiser and schedule of all tasks: AdamW, linear warm-up, cosine decay and clipping by the global norm."""

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
    """AdamW and its learning rate schedule.

    Raises:
        ValueError: A setting is out of range.
    """

    lr: float = 3e-3
    step_size_lr: float = 1.0
    """Learning rate of the step size (of its logarithm), as a multiple of ``lr``."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    """Weight decay of matrices. Norms, embeddings and the step size are not decayed."""
    warmup_steps: int = 50
    """Number of updates of linear warm-up."""
    min_lr_ratio: float = 0.1
    """Learning rate at the last update as a share of ``lr``. With 1, there is no decay."""
    clip: float | None = 1.0
    """Maximum global norm of the gradient. None disables clipping."""

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.step_size_lr < 0:
            raise ValueError(f"lr is {self.lr}, step_size_lr {self.step_size_lr}: lr must be positive, step_size_lr at least 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas is {self.betas}: both values must be in [0, 1)")
        if self.weight_decay < 0 or self.warmup_steps < 0:
            raise ValueError(f"weight_decay is {self.weight_decay}, warmup_steps {self.warmup_steps}: both must be at least 0")
        if not 0 <= self.min_lr_ratio <= 1:
            raise ValueError(f"min_lr_ratio is {self.min_lr_ratio}: give a value in [0, 1]")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip is {self.clip}: give a positive norm, or null for no clipping")

    def optimiser(self, module: nn.Module, fused: bool = True) -> AdamW:
        """Return AdamW with parameter groups for matrices, undecayed parameters and step sizes.

        The ``fused`` kernel is faster. It unscales 16-mixed gradients itself, so they cannot be clipped before.
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
        """Return the schedule: warm-up, then cosine decay to ``min_lr_ratio`` at the last of ``updates``.

        It restarts at update ``second``, before which there is no decay.
        """
        return LambdaLR(optimiser, lambda step: self.ratio(step, updates, second))

    def ratio(self, step: int, updates: float, second: int = 0) -> float:
        """Return the learning rate at update ``step`` (0, 1, ...) as a share of ``lr``; see ``schedule``."""
        if second:
            return self.ratio(step, math.inf) if step < second else self.ratio(step - second, updates - second)
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.min_lr_ratio == 1 or math.isinf(updates):
            return 1.0
        done = min(1.0, (step - self.warmup_steps) / max(1, updates - 1 - self.warmup_steps))
        return self.min_lr_ratio + (1 - self.min_lr_ratio) * (1 + math.cos(math.pi * done)) / 2


def _kinds(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield each trainable parameter once, with its group."""
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
