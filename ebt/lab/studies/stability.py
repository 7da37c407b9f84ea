"""Stability of training for different initial step sizes, on a grid of small training runs."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning as L
import torch

from ebt.lab.plots.stability import final_losses, loss_curves
from ebt.lab.studies.grid import LARGEST, LAST, Cell, Trained, judge, spreads
from ebt.lab.studies.models import OPTIMISATION, RECIPES
from ebt.lab.studies.page import Page, Table, Verdict, listed
from ebt.lab.studies.pool import Report
from ebt.lab.studies.runs import Json, Run
from ebt.lab.studies.text import Results, identity
from ebt.lab.studies.trained import optimisation_of
from ebt.problems.language.configuration import EBTConfig
from ebt.problems.language.data import TextDataModule
from ebt.problems.language.ebt import EBTForCausalLM
from ebt.problems.language.task import LanguageTask
from ebt.thinking import NonFiniteError, Recipe
from ebt.training.loop import train

NETWORK = {"size": "nano", "dim": 64}
BATCH_SIZE = 16
OURS, REFERENCE = "ours", "reference"
PARAMETERISATIONS: dict[str, dict[str, Any]] = {
    OURS: {},
    REFERENCE: {
        "space": "reference",
        "head": "linear",
        "head_init": "xavier",
        "energy_scale": 1.0,
        "anchor": "none",
        "scale_inputs": False,
    },
}
"""Fields of the model's configuration: the library's defaults, and update and energy head of the published code."""
KINDS = {"own": RECIPES["ebt"], "s1": RECIPES["ebt-s1"], "s2": RECIPES["ebt-s2"]}
PUBLISHED = ("s1", "s2")
"""Recipes of the published code."""


@dataclass(frozen=True)
class GridPlan:
    """The grid and its training text."""

    out: Path
    cells: tuple[Cell, ...]
    updates: int
    train: str
    context_length: int

    def run(self, cell: Cell) -> Run:
        """Return the training run of a cell."""
        settings = {
            **asdict(cell),
            "model": {**NETWORK, **PARAMETERISATIONS[cell.parameterisation]},
            "thinking": asdict(KINDS[cell.recipe]),
            "optimisation": asdict(replace(OPTIMISATION, lr=cell.lr)),
            "text": identity(self.train),
            "data": {"context_length": self.context_length, "batch_size": BATCH_SIZE},
            "updates": self.updates,
        }
        name = f"{cell.parameterisation} {cell.recipe} lr {cell.lr:g} alpha {cell.step_size:g} seed {cell.seed}"
        return Run(name, train_cell, settings, self.out / "raw", {"train": self.train})


def plan(args: argparse.Namespace) -> GridPlan:
    """Create the grid. A quick one has one recipe, one learning rate and two step sizes."""
    lr, quick = OPTIMISATION.lr, args.quick
    recipes = args.recipes or (["s1"] if quick else list(KINDS))
    rates = args.lr or ([lr] if quick else [lr / 4, lr, 4 * lr])
    sizes = args.step_sizes or ([1.0, 1000.0] if quick else [1.0, 10.0, 100.0, 1000.0])
    grid = product(args.parameterisations, recipes, rates, range(args.seeds), sizes)
    cells = tuple(Cell(p, r, lr, size, seed) for p, r, lr, seed, size in grid if p == OURS or r in PUBLISHED)
    return GridPlan(Path(args.out), cells, args.updates or (4 if quick else 100), args.train, args.context_length)


def stages(plan: GridPlan) -> list[list[Run]]:
    """Return a single stage."""
    return [[plan.run(cell) for cell in plan.cells]]


class _Losses(L.Callback):
    """Records the loss of each update."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.values.append(float(outputs["loss"]))


def train_cell(settings: Json, places: Json, report: Report) -> dict[str, Any]:
    """Train a model. Non-finite numbers end the run and are part of the result."""
    report(0, 1, "preparing data")
    seed, recipe = settings["seed"], Recipe(**settings["thinking"])
    data, losses, stopped = TextDataModule(places["train"], seed=seed, split_seed=0, **settings["data"]), _Losses(), None
    data.prepare()
    sizes: dict[str, Any] = {"vocab_size": data.vocab_size, "context_length": data.context_length}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = EBTConfig(**sizes, **settings["model"], step_size=settings["step_size"], steps=recipe.own_steps)
        model = EBTForCausalLM(config)
    task = LanguageTask.around(model, recipe=recipe, optimisation=optimisation_of(settings), sample_every=0, seed=seed)
    try:
        train(task, data, settings["updates"], report, losses)
    except NonFiniteError as error:
        stopped = str(error)
    return {"losses": losses.values, "guessing": math.log(data.vocab_size), "stopped": stopped}


def report(plan: GridPlan, results: Results) -> Page:
    """Create tables, verdicts and plots."""
    trained = [Trained(cell, **results[plan.run(cell).key].values) for cell in plan.cells]
    ours = [one for one in trained if one.cell.parameterisation == OURS]
    judged = judge(ours) if ours else []
    return Page(
        title="Stability",
        question="An EBT is trained from different initial step sizes, all else equal. Does it start at the loss of guessing, "
        "stay below it, and end at the same loss? The published code's parameterisation beside it, on the same grid.",
        setting=[
            f"{plan.updates} updates of {BATCH_SIZE} contexts of {plan.context_length} bytes of {Path(plan.train).name}; a "
            f"network of {NETWORK['dim']} x 3 layers; AdamW with warm-up and gradient clipping, the same for all.",
            f"Seeds {', '.join(map(str, sorted({cell.seed for cell in plan.cells})))}; runs that differ in the step size alone "
            "have the same weights and batches.",
            "Ours: the library's defaults. Reference: the published code's update (the next logits start from the "
            "probabilities), a linear energy head with Xavier's first weights, energies not divided by the step size, "
            "predictions that see the context by attention alone; optimiser and other first weights are the library's.",
            f"Diverged: a number was not finite. Spike: an update with a loss above {LARGEST} ln V. Rise: the most that a loss "
            f"lies above the least one before it. Final loss: mean of the last {LAST} updates.",
        ],
        tables=[_summary(trained), _grid(trained)],
        verdicts=judged,
        answer=answer(judged),
        pictures=_draw(plan, trained),
        numbers={
            "guessing": trained[0].guessing,
            "runs": [
                {**asdict(one.cell), "stopped": one.stopped}
                | {name: getattr(one, name) for name in ("first", "largest", "final", "spikes", "rise")}
                for one in trained
            ],
        },
    )


def answer(verdicts: Sequence[Verdict]) -> str:
    """Answer from the verdicts: what does not hold, and what does."""
    told = [[one.told for one in verdicts if one.met == met] for met in (False, True)]
    missed, met = (listed(texts, "and") for texts in told)
    rest = "As it should be" if missed else "Training is stable at every initial step size of the grid"
    return " ".join([*([f"Training is not stable: {missed}."] if missed else []), *([f"{rest}: {met}."] if met else [])])


def _groups(trained: Sequence[Trained], *names: str) -> Mapping[tuple[Any, ...], list[Trained]]:
    groups: dict[tuple[Any, ...], list[Trained]] = {}
    for one in trained:
        groups.setdefault(tuple(getattr(one.cell, name) for name in names), []).append(one)
    return groups


def _cells(members: Sequence[Trained]) -> list[str]:
    gone = sum(one.stopped is not None for one in members)
    spikes, rise = sum(one.spikes for one in members), max(one.rise for one in members)
    largest = max((max(one.losses) / one.guessing for one in members if one.losses), default=math.inf)
    return [f"{gone} of {len(members)}", str(spikes), f"{rise:.3f}", f"{largest:.3f}"]


def _summary(trained: Sequence[Trained]) -> Table:
    rows = []
    for (kind, recipe), members in _groups(trained, "parameterisation", "recipe").items():
        spread = max(spreads(members).values())
        rows.append([f"{kind}, {recipe}", *_cells(members), "diverged" if math.isinf(spread) else f"{spread:.2g} %"])
    head = [
        "parameterisation, recipe",
        "diverged",
        "spikes",
        "largest rise (nats)",
        "largest loss / ln V",
        "between step sizes",
    ]
    note = "Between step sizes: the largest difference of final losses, of one learning rate and seed."
    return Table("Over the whole grid", head, rows, note)


def _grid(trained: Sequence[Trained]) -> Table:
    rows = []
    for (kind, recipe, lr, size), members in _groups(trained, "parameterisation", "recipe", "lr", "step_size").items():
        finals = [one.final for one in members if one.stopped is None]
        rows.append([f"{kind}, {recipe}, {lr:g}, {size:g}", *_cells(members), f"{fmean(finals):.4f}" if finals else "-"])
    head = ["parameterisation, recipe, lr, step size", "diverged", "spikes", "largest rise", "largest / ln V", "final (nats)"]
    return Table("Each setting", head, rows, "Final: mean over the seeds that did not diverge.")


def _draw(plan: GridPlan, trained: Sequence[Trained]) -> dict[str, str]:
    pictures, guessing = dict[str, str](), trained[0].guessing
    for (kind,), members in _groups(trained, "parameterisation").items():
        name, panels = f"final-{kind}.png", dict[str, dict[str, dict[float, list[float | None]]]]()
        for one in members:
            series = panels.setdefault(f"recipe {one.cell.recipe}", {}).setdefault(f"learning rate {one.cell.lr:g}", {})
            series.setdefault(one.cell.step_size, []).append(one.final if one.stopped is None else None)
        final_losses(panels, guessing, plan.out / name, f"Final loss against initial step size, {kind}")
        pictures[name] = f"Final loss of each seed, {kind}; a cross: it diverged. Dashed: the loss of guessing."
        name = f"losses-{kind}.png"
        runs = [
            {
                "row": f"recipe {one.cell.recipe}",
                "column": f"learning rate {one.cell.lr:g}",
                "step_size": one.cell.step_size,
                "losses": one.losses,
                "stopped": one.stopped,
            }
            for one in members
        ]
        loss_curves(runs, guessing, plan.out / name, f"Training losses, {kind}, all seeds")
        pictures[name] = f"Training losses of every update, {kind}; equal curves cover each other. A cross: it diverged."
    return pictures
