"""Checkpoints of a run: written atomically, the last and the best; and a clean stop by Ctrl-C and SIGTERM."""

from __future__ import annotations

import io
import pickle
import re
import signal
import sys
import zipfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ebt.cli.run import Run
from ebt.errors import InputError
from ebt.files import write_whole
from ebt.problems.folder import save_folder
from ebt.training.model_task import ModelTask
from ebt.training.sharding import gathered


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the file, then takes its place: whatever fails on the way, the former checkpoint stays intact.

    (Lightning's own writes into the folder for temporary files, from where a checkpoint moves by copying if that is another
    file system.)
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with write_whole(target) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            kept = " The former one is intact." if target.exists() else ""
            raise InputError(f"the checkpoint {target} cannot be written ({error}): free some space.{kept}") from error

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        try:
            return super().load_checkpoint(path, map_location or (lambda storage, _: storage), weights_only)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
            foreign = re.search(r"GLOBAL (\S+)", str(error))
            held = f"it holds a {foreign[1]}, not only tensors and plain values" if foreign else "copy it again, or use another"
            raise InputError(f"the checkpoint {path} cannot be read ({error}): {held}.") from error


def check_hyperparameters(*parts: Any) -> None:
    """Look whether what modules saved by ``save_hyperparameters`` can be loaded from a checkpoint again.

    Raises:
        InputError: a setting cannot.
    """
    for part in parts:
        for name, value in getattr(part, "hparams", {}).items():
            memory = io.BytesIO()
            try:
                torch.save(value, memory)
                memory.seek(0)
                torch.load(memory, weights_only=True)
            except Exception as error:  # pickle raises many kinds
                raise InputError(
                    f"{type(part).__name__} saves the hyperparameter {name} ({type(value).__name__}), which no checkpoint can "
                    f"give back: make it a plain value (str, int, float), or call save_hyperparameters(ignore=[{name!r}])."
                ) from error


class Stopped(Exception):
    """Training was told to stop by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class Checkpoints(L.Callback):
    """Keep the last state of a run, before each validation, too, and the best weights by ``val/loss``; export the best model.
    Training ends with a validation.

    At SIGINT or SIGTERM the update that runs is finished, the last state is written and ``Stopped`` is raised; a second signal
    stops at once.

    Args:
        run: the folder.
        every: updates between checkpoints.
    """

    def __init__(self, run: Run, every: int) -> None:
        self.run, self.every = run, every
        self.best: dict[str, Any] = {}
        """Update and metrics of the best validation so far."""
        self._saved, self._signal = -1, 0
        self._handlers: dict[int, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._saved = -1

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over the signals; Lightning would raise where no checkpoint of the moment exists."""
        if not self._handlers:
            self._handlers = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.on_sanity_check_start(trainer, pl_module)
        self._saved = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        stop = self._told_to_stop(trainer)
        if trainer.global_step > self._saved and (stop or trainer.global_step % self.every == 0):
            self._save_last(trainer)
        if trainer.global_step >= trainer.estimated_stepping_batches:
            trainer.should_stop = True  # Lightning then validates, whatever the interval
        if stop and trainer.global_step == self._saved:  # not between updates that accumulate gradients
            raise Stopped(stop)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:  # even if just saved: from here, a resumed run validates again
            self._save_last(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if stop := self._told_to_stop(trainer):
            raise Stopped(stop)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        if trainer.sanity_checking or "val/loss" not in metrics:
            return
        if not self.best or metrics["val/loss"] < self.best["metrics"]["val/loss"]:
            self.best = {"update": trainer.global_step, "metrics": metrics}
            trainer.save_checkpoint(self.run.best, weights_only=True)
            self._export(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step > self._saved:
            self._save_last(trainer)
        if not self.best:  # never validated
            self._export(trainer, pl_module)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def _save_last(self, trainer: L.Trainer) -> None:
        self._saved = trainer.global_step
        trainer.save_checkpoint(self.run.last)

    def _export(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        if isinstance(task, ModelTask):
            with torch.no_grad(), gathered(task):
                if trainer.is_global_zero:
                    save_folder(task.model, self.run.model, getattr(trainer.datamodule, "tokenizer", None))

    def _note(self, number: int, frame: Any) -> None:
        if self._signal:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._signal = number
        print(f"\n{signal.Signals(number).name}: stopping after this update; once more stops at once.", file=sys.stderr)

    def _told_to_stop(self, trainer: L.Trainer) -> int:
        """The signal, if any process got one."""
        if trainer.world_size == 1 or not trainer.strategy.reduce_boolean_decision(bool(self._signal), all=False):
            return self._signal
        return self._signal or signal.SIGTERM
