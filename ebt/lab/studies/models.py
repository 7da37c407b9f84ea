"""Language models that several studies share: trained once, by different recipes, on the same batches."""

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
"""The demo's, for all models."""
HELD_OUT = 0.1
"""Share of the documents, where the training text has no validation file."""
TRANSFORMER = "transformer-pp"
MORE = "transformer-pp-more"
"""Transformer++ that gets as many operations as an EBT by the paper's recipes."""
TIMES = {MORE: 5}
"""Updates, as multiples of those of the others. By the paper's recipes an update of an EBT takes 30 operations per weight, by
the library's own 17 (``ebt.training.plan.floor``), one of Transformer++ 6."""
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
"""The EBTs: by the library's own recipe as in the demo, by the paper's two, and by its second one without one part each."""
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
    """The training text and, as validation, the one that is held out; the split does not depend on the seed."""
    shares = (1 - HELD_OUT, HELD_OUT, 0.0) if places["validation"] is None else (1.0, 0.0, 0.0)
    shape = {name: text[name] for name in ("tokenizer", "context_length", "batch_size")}
    data = TextDataModule(places["train"], places["validation"], fractions=shares, seed=seed, split_seed=0, **shape)
    data.prepare()
    return data


def train_model(settings: Json, places: Json, report: Report) -> dict[str, Any]:
    """Train a model and save its folder."""
    report(0, 1, "preparing data")
    data = training_data(settings["text"], places, settings["seed"])
    task = partial(LanguageTask, recipe=Recipe(), sample_every=0)
    made = train_from_settings(task, LanguageNetwork, data, settings, places, report)
    return {**made, "data": data.statistics()}
