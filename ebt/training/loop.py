"""Training without a configuration, on one device and without output."""

from __future__ import annotations

import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import LambdaCallback

from ebt.training.averaging import WeightAverage
from ebt.training.task import ThinkingTask

Report = Callable[[int, int, str], None]
"""Called with the units of work done, their total number, and a note."""

_NOISE = (
    ".*does not have many workers.*",
    ".*number of training batches .* is smaller than the logging interval.*",
    ".*Experiment logs directory .* exists and is not empty.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*isinstance\\(treespec, LeafSpec\\).*",
    ".*You are trying to `self.log\\(\\)` but the `self.trainer` reference is not registered.*",
    "You're using the WeightAveraging callback",
    "Total length of `list` across ranks is zero.*",  # the configuration disables validation
    ".*does not support code generation for complex operators.*",  # rotary position embeddings, compiled
    "FSDP2-wrapped module .* returned a view tensor.*",  # keys and values, which nothing changes in place
)
_DEPRECATIONS = "JSONARGPARSE_DEPRECATION_WARNINGS"


def train(
    task: ThinkingTask, data: Any, updates: int, report: Report, *callbacks: L.Callback, accelerator: str = "cpu"
) -> float:
    """Train for a number of updates on one device, and return the training time in seconds.

    Raises:
        NonFiniteError: A loss, an energy or a gradient is not finite.
    """

    def tell(trainer: L.Trainer, *_: Any) -> None:
        report(trainer.global_step, int(trainer.max_steps), _note(trainer))

    with quiet():
        trainer = L.Trainer(
            accelerator=accelerator,
            devices=1,
            max_steps=updates,
            max_epochs=-1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            callbacks=[LambdaCallback(on_train_batch_end=tell), *callbacks],
        )
        began = time.monotonic()
        trainer.fit(task, datamodule=data)
        return time.monotonic() - began


def train_for(
    task: ThinkingTask, data: Any, minutes: float, report: Report, average: float = 0.99, accelerator: str = "cpu"
) -> dict[str, Any]:
    """Train for a time budget: processor time on the CPU, so that other processes do not count, wall-clock time elsewhere.

    The learning rate schedule spans the budget after the warm start. In its second half, weights are averaged with decay
    ``average`` (0 for none).

    Returns:
        ``updates``, the number of updates; ``seconds``, the time spent; ``lr``, the learning rate of the last update.
    """
    clock = time.process_time if accelerator == "cpu" else time.monotonic
    budget = _Budget(60 * minutes, report, clock)
    averaging = [_SecondHalf(budget, average)] if average else []
    began = clock()
    endless = 10**9
    train(task, data, endless, lambda *_: None, *averaging, budget, accelerator=accelerator)
    return {"updates": budget.updates, "seconds": clock() - began, "lr": budget.lr}


class _Budget(L.Callback):
    """Stops a training run when its time is up, and sets the learning rate by the elapsed share of the budget."""

    def __init__(self, seconds: float, report: Report, clock: Callable[[], float]) -> None:
        self.seconds, self.report, self.clock, self.updates, self.share = seconds, report, clock, 0, 0.0
        self.warm, self.first = 0.0, 0
        """Share of the warm start, and the first update after it, where the schedule restarts."""

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.began = self.clock()
        self.warm = pl_module.recipe.warm_start
        pl_module.budget = lambda: self.share
        self.rates = [group["initial_lr"] for optimiser in trainer.optimizers for group in optimiser.param_groups]

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        done, updates = max(0.0, (self.share - self.warm) / (1 - self.warm)), self.updates - self.first
        ratio = pl_module.optimisation.ratio(updates, updates / done if done else math.inf)
        groups = (group for optimiser in trainer.optimizers for group in optimiser.param_groups)
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate * ratio
        self.lr = pl_module.optimisation.lr * ratio

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.updates += 1
        before, self.share = self.share, (self.clock() - self.began) / self.seconds
        self.first = self.updates if before < self.warm <= self.share else self.first
        trainer.should_stop = self.share >= 1
        self.report(round(1000 * min(1.0, self.share)), 1000, _note(trainer))


class _SecondHalf(WeightAverage):
    """Averages weights in the second half of a budget, without its warm start."""

    def __init__(self, budget: _Budget, decay: float) -> None:
        super().__init__(decay=decay)
        self.budget = budget

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and self.budget.share >= (1 + self.budget.warm) / 2


def _note(trainer: L.Trainer) -> str:
    loss = trainer.callback_metrics.get("train/loss")
    return "" if loss is None else f"loss {float(loss):.3g}"


@contextmanager
def quiet(*more: str) -> Iterator[None]:
    """Silence Lightning's routine messages, and warnings that match ``more``, inside the context."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels, said = [logger.level for logger in loggers], os.environ.get(_DEPRECATIONS)
    with warnings.catch_warnings():
        for text in (*_NOISE, *more):
            warnings.filterwarnings("ignore", text)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        os.environ.setdefault(_DEPRECATIONS, "off")  # deprecations in Lightning's own calls
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            if said is None:
                del os.environ[_DEPRECATIONS]
