"""Scaling of language models on any text."""

from __future__ import annotations

import copy
import functools
import hashlib
from typing import Any, ClassVar

from ebt.lab.scaling.grid import Grid, Point
from ebt.lab.scaling.subject import Subject
from ebt.lab.studies.models import HELD_OUT, RECIPES
from ebt.lab.studies.runs import Json
from ebt.lab.studies.text import identity
from ebt.problems.language.corpora import PYTHON_DOCS
from ebt.problems.language.data import TextDataModule
from ebt.problems.language.task import LanguageNetwork, LanguageTask
from ebt.problems.language.tokenizers import load_tokenizer
from ebt.thinking import Recipe
from ebt.training.model_task import ModelTask
from ebt.training.optimisation import Optimisation
from ebt.training.plan import Sizes, sizes_of

PAIRS = ((1, 16), (1, 32), (2, 64), (4, 96), (6, 160))
VALUES: dict[str, tuple[tuple[int, ...], ...]] = {
    "data": (),
    "batch": ((2,), (4,), (8,), (16,), (32,)),
    "depth": ((1,), (2,), (3,), (6,), (12,)),
    "width": ((16,), (32,), (64,), (112,), (192,)),
    "parameters": PAIRS,
    "flops": PAIRS,
}
QUICK: dict[str, tuple[tuple[int, ...], ...]] = {
    "data": ((3072,), (6144,), (12288,)),
    "batch": ((2,), (4,), (8,)),
    "depth": ((1,), (2,), (3,)),
    "width": ((16,), (32,), (64,)),
    "parameters": PAIRS[:3],
    "flops": PAIRS[:3],
}


class Language(Subject):
    loss, items, weights = "nats per token", "tokens", "weights beside tables of words"
    data: ClassVar = {"tokenizer": "bytes", "context_length": 128}
    train = PYTHON_DOCS
    recipes: ClassVar = RECIPES
    paper: ClassVar = {"data": 35.98, "batch": 28.46, "depth": 5.29, "parameters": 2.91, "flops": 2.92, "width": 0.02}

    def grid(self, axis: str, quick: bool) -> Grid:
        along = axis == "flops"
        base = Point(decay=not along, evaluations=16 if along else 4)
        if quick:
            base = Point(layers=1, dim=32, updates=6, evaluations=2, held_out=16, batch_size=8, decay=not along)
        return Grid(axis, (QUICK if quick else VALUES)[axis], base, self.data | ({"context_length": 64} if quick else {}))

    def identity(self, source: str) -> Json:
        return identity(source)

    def contents(self, data: Json) -> Json:
        return _tokenizer(data["tokenizer"])

    def open(self, data: Json, places: Json, seed: int, batch_size: int = 1, examples: int | None = None) -> TextDataModule:
        module = copy.copy(_prepared(places["train"], places["validation"], data["tokenizer"], data["context_length"]))
        module.seed, module.batch_size, module.train_examples = seed, batch_size, examples
        return module

    def per_example(self, data: Json) -> int:
        return int(data["context_length"])

    def task(self, sizes: Json, recipe: Recipe | None, optimisation: Optimisation, seed: int) -> ModelTask:
        common: dict[str, Any] = {"optimisation": optimisation, "sample_every": 0, "seed": seed}
        if recipe is None:
            return LanguageTask(LanguageNetwork(kind="transformer_pp", size="nano", **sizes), **common)
        return LanguageTask(LanguageNetwork(kind="ebt", size="nano", **sizes), recipe, **common)

    def sizes(self, task: ModelTask, data: Json) -> Sizes:
        return sizes_of(task.model.network, task.recipe, task.model.config.vocab_size, data["context_length"])


@functools.cache
def _tokenizer(spec: str) -> Json:
    if spec == "bytes":
        return {}
    words = sorted(load_tokenizer(spec).get_vocab().items())
    return {"tokenizer": hashlib.sha256(repr(words).encode()).hexdigest()}


@functools.lru_cache(maxsize=1)
def _prepared(train: str, validation: str | None, tokenizer: str, context_length: int) -> TextDataModule:
    """Split and pack the data once per process. The split does not depend on the seed."""
    shares = (1 - HELD_OUT, HELD_OUT, 0.0) if validation is None else (1.0, 0.0, 0.0)
    shape: dict[str, Any] = {"tokenizer": tokenizer, "context_length": context_length, "fractions": shares}
    module = TextDataModule(train, validation, split_seed=0, **shape)
    module.prepare()
    return module


SUBJECT = Language()
