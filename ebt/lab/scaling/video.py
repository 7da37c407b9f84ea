"""Scaling of video models on moving digits or videos."""

from __future__ import annotations

import copy
import functools
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from ebt.lab.scaling.grid import Grid, Point
from ebt.lab.scaling.subject import Subject
from ebt.lab.studies.runs import Json
from ebt.lab.studies.video import RECIPE
from ebt.problems.video.clips import open_videos
from ebt.problems.video.data import VideoDataModule
from ebt.problems.video.encoders import open_encoder
from ebt.problems.video.moving_digits import DIGITS, SIDE
from ebt.problems.video.task import VideoNetwork, VideoTask
from ebt.thinking import Recipe
from ebt.training.model_task import ModelTask
from ebt.training.optimisation import Optimisation
from ebt.training.plan import Sizes, sizes_of

START = RECIPE.start_std
PAIRS = ((1, 32), (1, 64), (2, 112), (3, 192), (4, 256))
VALUES: dict[str, tuple[tuple[int, ...], ...]] = {
    "data": (),
    "batch": ((2,), (4,), (8,), (16,), (32,)),
    "depth": ((1,), (2,), (3,), (6,), (12,)),
    "width": ((16,), (32,), (64,), (128,), (256,)),
    "parameters": PAIRS,
    "flops": PAIRS,
}
QUICK: dict[str, tuple[tuple[int, ...], ...]] = {
    "data": ((192,), (224,), (256,)),
    "batch": ((2,), (4,), (8,)),
    "depth": ((1,), (2,), (3,)),
    "width": ((16,), (32,), (64,)),
    "parameters": ((1, 16), (1, 32), (2, 32)),
    "flops": ((1, 16), (1, 32), (2, 32)),
}


class Video(Subject):
    """Video models. The networks of all recipes have the library's default energy head."""

    loss, items = "smooth L1 loss", "frames"
    data: ClassVar = {
        "encoder": "pixels",
        "size": 14,
        "channels": 1,
        "seconds": 0.25,
        "digits": 1,
        "context_length": 16,
        "clips": 4096,
        "evaluation_clips": 257,
        "windows": 16,
        "evaluation_windows": 16,
    }
    train = DIGITS
    recipes: ClassVar = {"ebt": RECIPE, "ebt-s1": Recipe.s1(start_std=START), "ebt-s2": Recipe.s2(start_std=START, noise=0.01)}
    paper: ClassVar = {"width": 33.66, "parameters": 34.28}

    def grid(self, axis: str, quick: bool) -> Grid:
        along = axis == "flops"
        base = Point(dim=128, decay=not along, evaluations=16 if along else 4, passes=4)
        if not quick:
            return Grid(axis, VALUES[axis], base, self.data)
        base = Point(layers=1, dim=32, updates=6, evaluations=2, held_out=16, batch_size=8, decay=not along)
        return Grid(axis, QUICK[axis], base, self.data | {"context_length": 4, "clips": 64, "evaluation_clips": 17})

    def identity(self, source: str) -> Json:
        return _identity(source)

    def contents(self, data: Json) -> Json:
        return _encoder(data["encoder"], data["size"], data["channels"])

    def open(self, data: Json, places: Json, seed: int, batch_size: int = 1, examples: int | None = None) -> VideoDataModule:
        module = copy.copy(_prepared(places["train"], places["validation"], tuple(sorted(data.items()))))
        module.seed, module.batch_size, module.train_examples = seed, batch_size, examples
        return module

    def per_example(self, data: Json) -> int:
        return int(data["context_length"])

    def task(self, sizes: Json, recipe: Recipe | None, optimisation: Optimisation, seed: int) -> ModelTask:
        common: dict[str, Any] = {"optimisation": optimisation, "seed": seed}
        if recipe is None:
            return VideoTask(VideoNetwork(kind="transformer_pp", size="nano", **sizes), **common)
        return VideoTask(VideoNetwork(kind="ebt", size="nano", **sizes), recipe, **common)

    def sizes(self, task: ModelTask, data: Json) -> Sizes:
        """Return the sizes, with the output map of Transformer++ as vocabulary. EBTs descend through the input map instead."""
        model: Any = task.model
        back = 0 if task.thinks else model.config.frame_dim
        sizes = sizes_of(model.network, task.recipe, back, data["context_length"])
        return replace(sizes, network=sizes.network + (0 if model.projection is None else model.projection.weight.numel()))


@functools.cache
def _identity(source: str) -> Json:
    if source == DIGITS:
        return {"source": source}
    videos = open_videos(source, SIDE)
    told = "\n".join(sorted(videos.content(i) for i in range(len(videos))))
    return {"source": Path(source).name, "sha256": hashlib.sha256(told.encode()).hexdigest()}


@functools.cache
def _encoder(name: str, size: int, channels: int) -> Json:
    encoder = open_encoder(name, size, channels)
    return {"encoder": encoder.key} if encoder.learned else {}


@functools.lru_cache(maxsize=1)
def _prepared(train: str, validation: str | None, data: tuple[tuple[str, Any], ...]) -> VideoDataModule:
    """Read and encode the data once per process. The split does not depend on the seed."""
    module = VideoDataModule(train, validation, fractions=(0.8, 0.2, 0.0), seed=0, **dict(data))
    module.prepare()
    return module


SUBJECT = Video()
