"""The study of ``ebt scaling``: its plan and its runs."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ebt.errors import InputError
from ebt.lab.scaling.grid import Grid, Point, check_filled, make_grid, read_grid, settings_of
from ebt.lab.scaling.subject import Subject, subject
from ebt.lab.scaling.training import train_point
from ebt.lab.studies.models import EBTS, OPTIMISATION, TRANSFORMER
from ebt.lab.studies.runs import Run

KINDS = dict(zip(("own", "s1", "s2"), EBTS, strict=True))
"""Recipes by short name."""
DEARER = 5.0
"""Approximate cost of an EBT relative to Transformer++."""


@dataclass(frozen=True)
class ScalingPlan:
    """The models to train, and their data."""

    out: Path
    name: str
    """Of the task."""
    grids: tuple[Grid, ...]
    kinds: tuple[str, ...]
    """Kinds of models, the baseline first."""
    seeds: int
    train: str
    validation: str | None
    device: str

    @property
    def subject(self) -> Subject:
        return subject(self.name)

    def run(self, grid: Grid, point: Point, kind: str, seed: int) -> Run:
        """Return the training run of a point."""
        about = self.subject
        recipe = about.recipes.get(kind)
        if recipe is not None and not point.decay:  # every update may be the end, which must not lie in a warm start
            recipe = replace(recipe, warm_start=0.0)
        ratio = OPTIMISATION.min_lr_ratio if point.decay else 1.0
        settings = {
            "task": self.name,
            "recipe": asdict(recipe) if recipe else None,
            "point": settings_of(point),
            "optimisation": asdict(replace(OPTIMISATION, lr=point.rate, warmup_steps=point.warmup, min_lr_ratio=ratio)),
            "data": {**grid.data, **about.contents(grid.data)},
            "train": about.identity(self.train),
            "validation": None if self.validation is None else about.identity(self.validation),
            "seed": seed,
        }
        name = f"{kind} {point.layers}x{point.dim} b{point.batch_size} n{point.size} s{seed}"
        places = {"train": self.train, "validation": self.validation, "device": self.device, "data": dict(grid.data)}
        cost = point.cost * (DEARER * recipe.mean_steps / 2 if recipe else 1.0)
        name += "" if point.decay else " constant"
        return Run(name, train_point, settings, self.out / "raw", places, cost=cost)


def plan(args: argparse.Namespace) -> ScalingPlan:
    """Create the plan from the options.

    Raises:
        InputError: A grid or the data are invalid.
    """
    axes, about = args.axis, subject(args.task)
    if args.grid is not None and len(axes) > 1:
        raise InputError(f"--grid is for one axis, but --axis has {len(axes)}: give one axis at a time.")
    given, origin = ({}, "the default grid") if args.grid is None else (read_grid(args.grid), f"--grid {args.grid}")
    grids = [make_grid(axis, given, about.grid(axis, args.quick), origin) for axis in axes]
    train = args.train or about.train
    places = {"train": train, "validation": args.validation}
    data = about.open(grids[0].data, places, seed=0)
    examples, held_out = len(data.train_dataloader().dataset), len(data.val_dataloader().dataset) - 1
    each = about.per_example(grids[0].data)
    filled = tuple(check_filled(grid, examples, held_out, each, about.items) for grid in grids)
    kinds = (TRANSFORMER, *(KINDS[name] for name in args.recipes))
    return ScalingPlan(Path(args.out), args.task, filled, kinds, args.seeds, train, args.validation, args.accelerator)


def stages(plan: ScalingPlan) -> list[list[Run]]:
    """Return a single stage, longest runs first, so that processes finish together."""
    runs = {
        run.key: run
        for grid in plan.grids
        for point in grid.points
        for kind in plan.kinds
        for seed in range(plan.seeds)
        for run in [plan.run(grid, point, kind, seed)]
    }
    return [sorted(runs.values(), key=lambda run: (-run.cost, run.key))]
