"""Training without a configuration: one task, one data module, so many updates, on the CPU, and nothing printed."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import lightning as L

from ebt.tasks.base import ThinkingTask
from ebt.thinking import ThinkingWarning

Report = Callable[[int, int, str], None]
"""Called with the units of work done, all units, and a note."""

_NOISE = (
    ".*does not have many workers.*",
    ".*number of training batches .* is smaller than the logging interval.*",
    ".*Experiment logs directory .* exists and is not empty.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*isinstance\\(treespec, LeafSpec\\).*",
    ".*You are trying to `self.log\\(\\)` but the `self.trainer` reference is not registered.*",
    "You're using the WeightAveraging callback",
)


def train(task: ThinkingTask, data: Any, updates: int, report: Report, *callbacks: L.Callback) -> float:
    """Train for so many updates, and tell the seconds that it took.

    Raises:
        NonFiniteError: a loss, an energy or a gradient is not finite.
    """
    quiet()
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=updates,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[_Beat(report), *callbacks],
    )
    began = time.monotonic()
    trainer.fit(task, datamodule=data)
    return time.monotonic() - began


class _Beat(L.Callback):
    """Reports each update."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        loss = trainer.callback_metrics.get("train/loss")
        note = "" if loss is None else f"loss {float(loss):.2f}"
        self.report(trainer.global_step, int(trainer.max_steps), note)


def quiet() -> None:
    """Leave out what Lightning says without being asked; real warnings stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # they are about Lightning's calls, not the user's
    for text in _NOISE:
        warnings.filterwarnings("ignore", text)
    warnings.showwarning = _show


def _show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """A warning in one line, without the place in the code."""
    print(f"ebt: {'alarm' if issubclass(category, ThinkingWarning) else 'warning'}: {message}", file=sys.stderr)
