"""Atomic checkpoints of a run (last and best), and a clean stop on Ctrl-C and SIGTERM."""

from __future__ import annotations

import io
import re
import signal
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn

from ebt.cli.run import Run
from ebt.errors import InputError
from ebt.files import put, write_whole
from ebt.nn import PAPER
from ebt.problems.folder import save_folder
from ebt.training.model_task import ModelTask
from ebt.training.sharded_checkpoints import load_shards
from ebt.training.sharding import collected


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary file in the same folder, then renames it. If writing fails, the previous checkpoint stays intact.
    Also reads folders of sharded weights.

    Lightning's own class writes to the system's temporary folder and copies across file systems.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        target = Path(path)
        whole = target.with_name(f".{target.name}.new") if target.is_dir() else target
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with write_whole(whole) as file:
                torch.save(checkpoint, file)
            if whole != target:
                put(whole, target)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            if whole != target:
                whole.unlink(missing_ok=True)
            kept = " The previous checkpoint is intact." if target.exists() else ""
            raise InputError(f"the checkpoint {target} cannot be written ({error}): free some space.{kept}") from error

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        if Path(path).is_dir():
            return load_shards(Path(path))
        try:
            return super().load_checkpoint(path, map_location or (lambda storage, _: storage), weights_only)
        except Exception as error:  # a damaged file may raise anything
            foreign = re.search(r"GLOBAL (\S+)", str(error))
            held = f"it contains {foreign[1]}, not only tensors and plain values" if foreign else "copy it again or use another"
            raise InputError(f"the checkpoint {path} cannot be read ({error}): {held}.") from error


def check_hyperparameters(*parts: Any) -> None:
    """Check that hyperparameters saved by ``save_hyperparameters`` can be loaded from a checkpoint.

    Raises:
        InputError: A hyperparameter cannot be loaded.
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
                    f"{type(part).__name__} saves the hyperparameter {name} ({type(value).__name__}), which cannot be loaded "
                    f"again: use a plain value (str, int, float), or call save_hyperparameters(ignore=[{name!r}])."
                ) from error


def mismatch(error: BaseException, file: Path, task: Any) -> InputError | None:
    """Return the error for a checkpoint with other weights than the task's network, or None if ``error`` has another cause."""
    if "loading state_dict" not in str(error):
        return None
    size = getattr(getattr(task, "network", None), "size", None)
    older = f" In earlier versions, size {size} had the inner width of Llama 2: set model.network.size to llama-{size}."
    remedy = "keep the settings of the network." + (older if size in PAPER else "")
    return InputError(f"{file} does not match this model: {remedy}")


class Stopped(Exception):
    """A signal stopped the training."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class Checkpoints(L.Callback):
    """Saves the last state of a run and the best weights by ``val/loss``, and exports the best model.

    The last state is also saved before each validation, and training ends with a validation. On SIGINT or SIGTERM, the current
    update is finished, the last state is saved and ``Stopped`` is raised; a second signal stops immediately.

    Args:
        run: The run folder.
        every: Number of updates between checkpoints.
    """

    def __init__(self, run: Run, every: int) -> None:
        self.run, self.every = run, every
        self.config: str | None = None
        """The configuration to write when training begins; not before, as the checkpoint of the run may refuse it."""
        self.began = False
        """Whether training has begun. A run that has all of its updates does not begin again."""
        self.best: dict[str, Any] = {}
        """The update and the metrics of the best validation so far."""
        self._saved, self._signal = -1, 0
        self._handlers: dict[int, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._saved = -1

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Install the signal handlers. Lightning's own would raise before the current state is saved."""
        if not self._handlers:
            self._handlers = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.on_sanity_check_start(trainer, pl_module)
        self._saved, self.began = trainer.global_step, True
        if self.config is not None:
            self.run.make(self.config)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        stop = self._told_to_stop(trainer)
        if trainer.global_step > self._saved and (stop or trainer.global_step % self.every == 0):
            self._save_last(trainer)
        if trainer.global_step >= trainer.estimated_stepping_batches:
            trainer.should_stop = True  # Lightning then validates, whatever the interval
        if stop and trainer.global_step == self._saved:  # not between updates that accumulate gradients
            raise Stopped(stop)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._save_last(trainer)  # even if just saved: from here, a resumed run validates again

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
            self.export(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step > self._saved:
            self._save_last(trainer)
        if not self.best:  # never validated
            self.export(trainer, pl_module)

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

    def export(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Write the model folder."""
        if isinstance(task, ModelTask):
            weights = collected(task.model.state_dict(), keep=trainer.is_global_zero)
            if trainer.is_global_zero:
                save_folder(task.model, self.run.model, getattr(trainer.datamodule, "tokenizer", None), weights=weights)

    def _note(self, number: int, frame: Any) -> None:
        if self._signal:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._signal = number
        print(f"\n{signal.Signals(number).name}: stopping after this update; repeat to stop immediately.", file=sys.stderr)

    def _told_to_stop(self, trainer: L.Trainer) -> int:
        """Return the signal that any process has received, or 0."""
        if trainer.world_size == 1 or not trainer.strategy.reduce_boolean_decision(bool(self._signal), all=False):
            return self._signal
        return self._signal or signal.SIGTERM
