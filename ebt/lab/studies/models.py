"""Language models shared by studies, trained once with different recipes on the same batches."""

from __future__ import annotations

from functools import partial
from typing import Any

from ebt.lab.studies.pool import Report
from ebt.lab.studies.runs import Json
from ebt.lab.studies.trained import train_from_settings
from ebt.problems.language.data import TextDataModule
from ebt.problems.language.task import LanguageNetwork, LanguageTask
from ebt.thinking import Recipe
from ebt.training.optimisation import Optimisation

NETWORK = {"size": "nano", "dim": 96}
OPTIMISATION = Optimisation(lr=4e-3, betas=(0.9, 0.98), min_lr_ratio=0.05)
"""Optimisation of all models, as in the demo."""
HELD_OUT = 0.1
"""Share of held-out documents without a validation file."""
TRANSFORMER = "transformer-pp"
MORE = "transformer-pp-more"
"""Transformer++ with as many operations as an EBT with the paper's recipes."""
TIMES = {MORE: 5}
"""Number of updates as a multiple of the others'. An update of an EBT takes 30 operations per weight with the paper's recipes
and 17 with the library's own, one of Transformer++ 6 (``ebt.training.plan.floor``)."""
S2 = Recipe.s2()
RECIPES: dict[str, Recipe] = {
    "ebt": Recipe.warm(),
    "ebt-s1": Recipe.s1(),
    "ebt-s2": S2,
    "s2-fixed-step-size": Recipe.s2(step_size_spread=1.0),
    "s2-fixed-steps": Recipe.s2(max_steps=S2.min_steps),
    "s2-no-noise": Recipe.s2(noise=0.0),
    "s2-no-replay": Recipe.s2(replay_size=0, replay_fraction=0.0),
}
"""Recipes of the EBTs: the library's own as in the demo, the paper's S1 and S2, and S2 without each of its parts."""
TITLES = {
    TRANSFORMER: "Transformer++",
    MORE: f"Transformer++, {TIMES[MORE]} x updates",
    "ebt": "EBT own recipe",
    "ebt-s1": "EBT S1",
    "ebt-s2": "EBT S2",
    "s2-fixed-step-size": "S2, fixed step size",
    "s2-fixed-steps": "S2, fixed number of steps",
    "s2-no-noise": "S2, no Langevin noise",
    "s2-no-replay": "S2, no replay buffer",
}
EBTS = ("ebt", "ebt-s1", "ebt-s2")


def training_data(text: Json, places: Json, seed: int) -> TextDataModule:
    """Return the training text, with the held-out text as validation set. The split does not depend on the seed."""
    shares = (1 - HELD_OUT, HELD_OUT, 0.0) if places["validation"] is None else (1.0, 0.0, 0.0)
    shape = {name: text[name] for name in ("tokenizer", "context_length", "batch_size")}
    data = TextDataModule(places["train"], places["validation"], fractions=shares, seed=seed, split_seed=0, **shape)
    data.prepare()
    return data


def train_model(settings: Json, places: Json, report: Report) -> dict[str, Any]:
    """Train a model and save it."""
    report(0, 1, "preparing data")
    data = training_data(settings["text"], places, settings["seed"])
    task = partial(LanguageTask, recipe=Recipe(), sample_every=0)
    made = train_from_settings(task, LanguageNetwork, data, settings, places, report)
    return {**made, "data": data.statistics()}
