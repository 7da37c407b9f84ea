"""A training run of a scaling study, with held-out losses along training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, Subset

from ebt.lab.scaling.subject import subject
from ebt.lab.studies.measure import evenly
from ebt.lab.studies.pool import Report
from ebt.lab.studies.runs import Json
from ebt.lab.studies.trained import optimisation_of, parameters_of, recipe_of
from ebt.models.exploration import Explored
from ebt.thinking import NonFiniteError
from ebt.training.loop import train
from ebt.training.model_task import ModelTask
from ebt.training.plan import floor

ROWS = 32
"""Rows per batch of held-out data."""

Batches = Sequence[dict[str, torch.Tensor]]


def train_point(settings: Json, places: Json, report: Report) -> dict[str, Any]:
    """Train a model. Non-finite numbers end the run and are part of the result.

    Returns:
        ``curve`` has for each evaluation after a warm start its update and the losses after 1, 2, ... steps on the choosing and
        the measured half. Other keys: ``parameters``, ``network`` (non-embedding parameters), ``operations`` (minimum per item,
        as in ``ebt plan``), ``seconds`` of training, and ``stopped``, the reason for an early end.
    """
    report(0, 1, "preparing data")
    about, point, seed = subject(settings["task"]), settings["point"], settings["seed"]
    examples = point["size"] // about.per_example(settings["data"])
    data = about.open(places["data"], places, seed, point["batch_size"], examples)
    recipe = recipe_of(settings)
    sizes = {"layers": point["layers"], "dim": point["dim"], "heads": point["dim"] // point["head_dim"]}
    task = about.task(sizes, recipe, optimisation_of(settings), seed)
    thinks_after = 0.0 if recipe is None else recipe.warm_start * point["updates"]
    moments = [moment for moment in point["moments"] if moment > thinks_after]
    watch, stopped, began = Watch(halves(data, point["held_out"]), moments), None, time.monotonic()
    try:
        train(task, data, point["updates"], report, watch, accelerator=places["device"])
    except NonFiniteError as error:
        stopped = str(error)
    counted = about.sizes(task, settings["data"])
    least = floor(counted, None, 1) if recipe is None else floor(counted, recipe.on(places["device"]), recipe.mean_steps)
    return {
        "curve": watch.curve,
        "parameters": parameters_of(task),
        "network": counted.network,
        "operations": least.total,
        "seconds": time.monotonic() - began - watch.seconds,
        "stopped": stopped,
    }


def halves(data: Any, count: int) -> tuple[Batches, Batches]:
    """Return held-out rows for choosing and for measuring, evenly spread over one half of the data each."""
    rows = data.val_dataloader().dataset
    whole = len(rows) - 1
    middle = whole * (count // 2) // count
    first, second = evenly(0, middle, count // 2), evenly(middle, whole, count - count // 2)
    choosing, measured = (list(DataLoader(Subset(rows, chosen), batch_size=ROWS)) for chosen in (first, second))
    return choosing, measured


class Watch(L.Callback):
    """Measures held-out losses after selected updates."""

    def __init__(self, halves: tuple[Batches, Batches], moments: Sequence[int]) -> None:
        self.halves, self.moments, self.curve, self.seconds = halves, set(moments), list[dict[str, Any]](), 0.0

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step not in self.moments:
            return
        began = time.monotonic()
        pl_module.eval()
        choosing, measured = (losses(pl_module, half) for half in self.halves)
        pl_module.train()
        self.curve.append({"update": trainer.global_step, "choosing": choosing, "measured": measured})
        self.seconds += time.monotonic() - began


@torch.no_grad()
def losses(task: ModelTask, batches: Batches) -> list[float]:
    """Return the mean loss after each step up to the model's default, with the same random starts in each call."""
    sums, steps = dict[int, list[float]](), range(1, task.steps + 1 if task.thinks else 2)
    for batch in batches:
        batch = {name: value.to(task.device) for name, value in batch.items()}
        found = task.explore(batch, steps)
        for step in steps:
            state = found.at(step, found.how.candidates).state if isinstance(found, Explored) else found[step - 1]
            total, count = task.measure(batch, state)["loss"]
            kept = sums.setdefault(step, [0.0, 0.0])
            kept[0] += float(total)
            kept[1] += float(count)
    return [total / count for total, count in sums.values()]
