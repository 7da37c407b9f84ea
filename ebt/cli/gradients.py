"""``ebt fit --check-gradients``: compare both ways to take gradients of gradients on one training batch."""

from __future__ import annotations

from typing import Any

import lightning as L
from rich.console import Console

from ebt.cli.checkpoints import AtomicCheckpointIO, mismatch
from ebt.cli.machine import out_of_memory
from ebt.cli.run import Run
from ebt.cli.terminal import numbers, plain_table, print_table, say
from ebt.cli.training import TrainingCLI
from ebt.errors import InputError
from ebt.training.gradient_check import Check, compare

ALONE = (
    "--trainer.devices=1",
    "--trainer.num_nodes=1",
    "--trainer.strategy=auto",
    "--trainer.max_steps=1",
    "--trainer.limit_val_batches=0",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.enable_progress_bar=false",
)
"""Settings of the trainer. Gradients do not depend on how weights are spread over devices."""


def check(cli: TrainingCLI, run: Run | None) -> int:
    """Compare the gradients of the first training batch, and print them. Nothing is trained or written.

    Args:
        cli: The configuration, read with the settings ``ALONE``.
        run: A run whose last weights are checked. Default: new weights.

    Raises:
        InputError: The gradients cannot be compared.
    """
    if hasattr(cli.datamodule, "prepare"):
        cli.datamodule.prepare()
    checking = _Checking(run)
    cli.trainer.callbacks.append(checking)
    try:
        cli.trainer.fit(cli.model, cli.datamodule)
    except _Checked:
        pass
    except (RuntimeError, MemoryError) as error:
        if told := out_of_memory(error):
            raise told from error
        raise
    if checking.found is None:
        raise InputError("the training data have no batch: give more data, or lower data.batch_size.")
    _show(checking.found, run)
    return 0


class _Checked(Exception):
    """The first batch has been checked, and no more is to be done."""


class _Checking(L.Callback):
    """Compares the gradients of the first batch in place of the first update."""

    def __init__(self, run: Run | None) -> None:
        self.run = run
        self.found: Check | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not pl_module.thinks:
            raise InputError(
                f"--check-gradients: {type(pl_module).__name__} trains a model without an energy, which has no gradients of "
                "gradients. Leave it out."
            )
        if pl_module.second_order is None:
            raise InputError("--check-gradients: a latent descent has no gradients of gradients. Leave it out.")
        pl_module.budget = lambda: 1.0  # after the warm start, in which the network does not see candidates
        if self.run is not None:
            saved = AtomicCheckpointIO().load_checkpoint(self.run.last)
            try:
                pl_module.load_state_dict(saved["state_dict"])
            except RuntimeError as error:
                if told := mismatch(error, self.run.last, pl_module):
                    raise told from error
                raise

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.found = compare(trainer, pl_module, batch)
        raise _Checked


def _show(found: Check, run: Run | None) -> None:
    console = Console()
    table = plain_table("", *numbers("relative error", "cosine", "share of the gradient"))
    for one in (found.whole, *found.worst):
        table.add_row(one.name, f"{one.error:.2g}", f"{one.cosine:.6f}", f"{one.share:.2g}")
    weights = "new weights" if run is None else str(run.last)
    print_table(console, f"central differences, nudge {found.nudge:g}, against double backward: one update of {weights}", table)
    table = plain_table("", *numbers("loss", "seconds"))
    for way, loss in found.losses.items():
        table.add_row(way, f"{loss:.6g}", f"{found.seconds[way]:.3g}")
    print_table(console, "each way", table)
    for note in _notes(found, run):
        say(console, note)


def _notes(found: Check, run: Run | None) -> list[str]:
    exact, central = found.losses["exact"], found.losses["central"]
    notes = []
    if abs(exact - central) > found.limit * abs(exact):
        notes.append("the losses differ: draw all random numbers of the task from its generator(), the same for both ways.")
    if run is None and found.without:
        notes.append(
            f"{found.without} of {found.count} parameters have no gradient with new weights: check a run after some training, "
            "with --resume."
        )
    told = f"relative error {found.whole.error:.2g}"
    if found.whole.error <= found.limit:
        return [*notes, f"{told}, within the {found.limit:g} that is harmless in this precision."]
    return [*notes, f"{told} is above {found.limit:g}: {_remedy(found)}"]


def _remedy(found: Check) -> str:
    """What to do about a large error."""
    nudge, error = min(found.others.items(), key=lambda other: other[1])
    if error <= found.limit:
        return f"nudge {nudge:g} has {error:.2g}: set recipe.second_order to central and recipe.nudge to {nudge:g}."
    if found.steady:
        return (
            "other nudges give the same gradient, so that double backward leaves terms out. Make the backward of custom "
            "functions differentiable (torch.autograd.gradgradcheck), or set recipe.second_order to central."
        )
    tried = ", ".join(f"{nudge:g} ({error:.2g})" for nudge, error in found.others.items())
    return f"other nudges are no better: {tried}. Set recipe.second_order to exact."
