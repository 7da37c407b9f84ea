"""Terminal output of a run: summary, progress and results."""

from __future__ import annotations

import time
from collections import deque
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table

from ebt.cli.terminal import bar_columns, plain_table
from ebt.training.second_order import SecondOrder
from ebt.training.task import ThinkingTask

SHOWN = ("loss", "perplexity", "exact", "cells", "gain")
"""Metrics printed after a validation."""
QUIET_SECONDS = 30
"""Minimum seconds between progress lines without a terminal."""
RECENT = 200
"""Number of batches whose speed is shown, so that a pause of the machine is soon forgotten."""


class Report(ProgressBar):
    """Shows one progress bar for the run and a line per validation. Without a terminal, it prints lines only."""

    def __init__(self) -> None:
        super().__init__()
        self.console = Console()
        self.seconds = 0.0
        """Training time including validation, over all resumed sessions of the run."""
        self._before = 0.0
        self._bar: Progress | None = None
        self._task: Any = None
        self._began = self._told = time.monotonic()
        self._recent = deque[tuple[float, int]](maxlen=RECENT)  # seconds and updates after each batch
        self._line = -1

    @property
    def is_enabled(self) -> bool:
        """Whether Lightning may print."""
        return True

    def disable(self) -> None:
        """Disable output. Lightning calls this in all processes but the first."""

    def print(self, *args: Any, **kwargs: Any) -> None:
        self.console.print(*args, markup=False, highlight=False, soft_wrap=True)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self.console.print(beginning(trainer, pl_module))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began = self._told = time.monotonic()
        self._recent.clear()
        self._recent.append((self._before, trainer.global_step))
        if trainer.global_step and trainer.is_global_zero:
            self.print(f"continues at update {trainer.global_step}")
        total = trainer.estimated_stepping_batches
        self._open("training", None if total == float("inf") else int(total), trainer.global_step)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.seconds = self._before + time.monotonic() - self._began
        self._recent.append((self.seconds, trainer.global_step))
        if self._bar is not None:
            self._bar.update(self._task, completed=trainer.global_step, text=self._pace(trainer))
        elif time.monotonic() - self._told > QUIET_SECONDS:
            self._say(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self.seconds = self._before + time.monotonic() - self._began
            metrics = trainer.callback_metrics
            self._say(trainer, *(f"val/{name} {metrics[f'val/{name}']:.4g}" for name in SHOWN if f"val/{name}" in metrics))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()
        if self._line < trainer.global_step:  # without validation
            self._say(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit":
            label, batches = ("test", trainer.num_test_batches) if trainer.testing else ("validation", trainer.num_val_batches)
            self._open(label, int(sum(batches)), 0)

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self._bar is not None and trainer.state.fn != "fit":
            self._bar.advance(self._task)

    on_test_start, on_test_batch_end = on_validation_start, on_validation_batch_end

    def _close(self, *_: Any, **__: Any) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    on_exception = teardown = _close

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.seconds = self._before = state_dict["seconds"]

    def _say(self, trainer: L.Trainer, *metrics: str) -> None:
        self._told, self._line = time.monotonic(), trainer.global_step
        if trainer.is_global_zero:
            self.print("  ".join((f"update {trainer.global_step}", *metrics, self._pace(trainer))))

    def _pace(self, trainer: L.Trainer) -> str:
        loss = trainer.callback_metrics.get("train/loss")
        seconds, step = self._recent[0]
        rate = (trainer.global_step - step) / max(self.seconds - seconds, 1e-9)
        left = trainer.estimated_stepping_batches - trainer.global_step
        known = self._bar is None and rate > 0 and 0 < left < float("inf")
        told = f"  left {timedelta(seconds=round(left / rate))}" if known else ""
        return ("" if loss is None else f"train/loss {loss.item():.4g}  ") + f"{rate:.3g} updates/s{told}"

    def _open(self, label: str, total: int | None, completed: int) -> None:
        self._close()
        if self.console.is_terminal and self.trainer.is_global_zero:
            columns = SpinnerColumn(), *bar_columns(), TextColumn("{task.fields[text]}")
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._task = self._bar.add_task(label, total=total, completed=completed, text="")
            self._bar.start()


def beginning(trainer: L.Trainer, task: L.LightningModule) -> Table:
    """Return a table of the model, the data, the updates and the device."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    network: Any = getattr(task, "network", None)
    kind = f", {network.kind}" if hasattr(network, "kind") else ""
    table.add_row("model", f"{getattr(task, 'kind_name', type(task).__name__)}{kind}, {parameters(task):,} parameters")
    data = statistics(trainer)
    sizes = [str(data["source"])] if "source" in data else []
    for unit in ("documents", "tokens", "puzzles", "mazes", "images", "videos", "clips"):
        if isinstance(count := data.get(unit), dict) and "train" in count:
            held_out = f" ({count['validation']:,} for validation)" if "validation" in count else ""
            sizes.append(f"{count['train']:,} {unit}{held_out}")
    table.add_row("data", ", ".join(sizes) or "of the data module")
    total = trainer.estimated_stepping_batches
    table.add_row("updates", "until stopped" if total == float("inf") else f"{total:,}")
    table.add_row("device", f"{trainer.world_size} x {trainer.strategy.root_device}, precision {trainer.precision}")
    if (way := second_order(task)) is not None:
        table.add_row("gradients of gradients", str(way))
    if not getattr(getattr(getattr(task, "model", None), "config", None), "input_gradient", True):
        table.add_row("candidate embedding", "no gradients through the network's input (network.input_gradient)")
    return table


def parameters(task: L.LightningModule) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in task.parameters() if parameter.requires_grad)


def second_order(task: L.LightningModule) -> SecondOrder | None:
    """Return how a training takes gradients of gradients. None for a model that does not think."""
    return task.second_order if isinstance(task, ThinkingTask) and task.thinks else None


def statistics(trainer: L.Trainer) -> dict[str, Any]:
    """Return the statistics of the data module, if it has any."""
    tell = getattr(trainer.datamodule, "statistics", None)
    return tell() if callable(tell) else {}


def results_table(metrics: dict[str, float], steps: int) -> Table:
    """Return a table of metrics (rows) by number of thinking steps (columns), the model's default first."""
    rows: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        what, _, step = name.partition("/")[2].partition("_at_")
        rows.setdefault(what, {})[step] = value
    rows.pop("alarms", None)
    numbers = sorted({key for row in rows.values() for key in row if key}, key=int)
    table = plain_table("", f"own steps ({steps})" if numbers else "", *(f"at {number}" for number in numbers))
    for name, row in rows.items():
        table.add_row(name, *(f"{row[key]:.4g}" if key in row else "" for key in ("", *numbers)))
    return table
