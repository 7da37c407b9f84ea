"""Training starts flat and stays stable, whatever the initial step size: a small language EBT, trained over a grid.

    python benchmarks/stability.py --quick --json stability.json

Each run trains on the embedded documentation of Python, byte by byte, with the demo's settings, and keeps the training loss of
every update. Runs that differ in the initial step size alone (the other settings, the seed and so the batches are the same)
should train alike, because the energy head is divided by the initial step size. A finished run is one small JSON file in
``--out``; an interrupted benchmark goes on where it stopped. After a change of the code, start with an empty folder.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ebt.cli.demo_jobs import Settings as Demo
from ebt.cli.terminal import count_from, number_in, out_folder, plain_table, print_table, say_written
from ebt.cli.training import quiet
from ebt.data.text import TextDataModule
from ebt.errors import InputError
from ebt.plots.style import COLOURS, GREY, picture
from ebt.tasks import LanguageNetwork, LanguageTask, Optimisation
from ebt.thinking import NonFiniteError, Recipe

NETWORK: dict[str, Any] = {"size": "nano", "dim": 64}
DATA: dict[str, Any] = {"context_length": 64, "batch_size": 16}
DEMO = Demo().text_task("ebt")
RECIPES = {"own": DEMO.recipe, "s1": Recipe.s1(), "s2": Recipe.s2()}
"""The library's own recipe as in the demo, and the paper's."""

FIRST, LARGEST, FINAL, SPREAD = 0.01, 1.1, 0.95, 0.01
"""Limits: distance of the first loss from ln V as a share of it; the largest and the final loss over ln V; difference of the
final losses between step sizes in nats."""
LAST = 10
"""The final loss is the mean of so many last updates."""


@dataclass(frozen=True)
class Run:
    """One training of the grid."""

    recipe: str
    lr: float
    step_size: float
    seed: int
    updates: int

    @property
    def name(self) -> str:
        return f"{self.recipe}-lr{self.lr:g}-alpha{self.step_size:g}-seed{self.seed}-updates{self.updates}"

    @property
    def optimisation(self) -> Optimisation:
        return replace(DEMO.optimisation, lr=self.lr)

    def settings(self) -> dict[str, Any]:
        """All that the losses depend on, as JSON."""
        own = {"network": NETWORK, "data": DATA, "thinking": asdict(RECIPES[self.recipe])}
        settings = {**asdict(self), **own, "optimisation": asdict(self.optimisation), "torch": torch.__version__}
        return dict(json.loads(json.dumps(settings)))


@dataclass(frozen=True)
class Result:
    """What a run gave."""

    run: Run
    losses: list[float]
    """Training loss of every update, in nats per byte."""
    guessing: float
    """ln V, the loss of equal probabilities."""
    seconds: float
    stopped: str | None = None
    """Why it ended before its last update."""

    @property
    def first(self) -> float:
        """First loss over ln V; infinite if there is none."""
        return self.losses[0] / self.guessing if self.losses else math.inf

    @property
    def largest(self) -> float:
        """Largest loss over ln V; infinite if the run stopped."""
        return max(self.losses) / self.guessing if self.stopped is None else math.inf

    @property
    def final(self) -> float:
        """Mean loss of the last updates, in nats; infinite if the run stopped."""
        return fmean(self.losses[-LAST:]) if self.stopped is None else math.inf


class _Losses(L.Callback):
    """Notes the loss of each update."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self.values: list[float] = []
        self.tell = tell

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.values.append(float(outputs["loss"]))
        self.tell()


def train(run: Run, tell: Callable[[], None]) -> Result:
    """One training; numbers that are not finite end it and belong to the result."""
    network = LanguageNetwork(**NETWORK, step_size=run.step_size)
    task = LanguageTask(network, RECIPES[run.recipe], run.optimisation, sample_every=0, seed=run.seed)
    data, losses = TextDataModule(**DATA, seed=run.seed), _Losses(tell)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=run.updates,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[losses],
    )
    data.prepare()
    began, stopped = time.monotonic(), None
    try:
        trainer.fit(task, datamodule=data)
    except NonFiniteError as error:
        stopped = str(error)
    return Result(run, losses.values, math.log(data.vocab_size), time.monotonic() - began, stopped)


def save(result: Result, folder: Path) -> None:
    """Write the run's file; a reader finds it whole or not at all."""
    path = folder / f"{result.run.name}.json"
    content = {"settings": result.run.settings(), **{key: value for key, value in asdict(result).items() if key != "run"}}
    path.with_suffix(".new").write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")
    path.with_suffix(".new").replace(path)


def load(run: Run, folder: Path) -> Result | None:
    """The result of a run that has finished with the same settings.

    Raises:
        InputError: its file is no JSON object of a run.
    """
    path = folder / f"{run.name}.json"
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        settings = content.pop("settings")
        return Result(run, **content) if settings == run.settings() else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no result of a run ({error!r}): delete it, then the run is made again.") from error


def collect(runs: Sequence[Run], folder: Path, console: Console) -> list[Result]:
    """The results of all runs: from the folder where they are, else trained now."""
    found = [load(run, folder) for run in runs]
    todo = [run for run, result in zip(runs, found, strict=True) if result is None]
    console.print(f"{len(runs)} runs, {len(runs) - len(todo)} of them finished before in {folder}/", highlight=False)
    made: dict[Run, Result] = {}
    columns = (TextColumn("{task.description}"), BarColumn(24), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=sum(run.updates for run in todo))
        for i, run in enumerate(todo):
            progress.update(bar, description=f"{i + 1} of {len(todo)}: {run.name}", completed=sum(r.updates for r in todo[:i]))
            made[run] = train(run, lambda: progress.advance(bar))
            save(made[run], folder)
            console.print(_line(made[run]), highlight=False, soft_wrap=True)
    return [made[run] if result is None else result for run, result in zip(runs, found, strict=True)]


def _line(result: Result) -> str:
    return result.run.name + (
        f": stopped, {result.stopped}"
        if result.stopped is not None
        else f": first {result.first:.4f} ln V, largest {result.largest:.4f} ln V, final {result.final:.4f} nats, "
        f"{result.seconds:.1f} s"
    )


@dataclass(frozen=True)
class Verdict:
    """One criterion: met if the value is at most the limit."""

    name: str
    value: float
    limit: float
    text: str

    @property
    def met(self) -> bool:
        return self.value <= self.limit


def judge(results: Sequence[Result]) -> list[Verdict]:
    """All criteria; that on step sizes needs at least two of them."""
    first = max(abs(result.first - 1) for result in results)
    largest, final = (max(getattr(result, name) for result in results) for name in ("largest", "final"))
    final /= results[0].guessing
    verdicts = [
        Verdict("flat start", first, FIRST, f"the first loss is within {first:.2%} of ln V (limit {FIRST:.0%})"),
        Verdict("stable", largest, LARGEST, f"the largest loss of any run is {largest:.3f} ln V (limit {LARGEST})"),
        Verdict("learns", final, FINAL, f"the largest final loss is {final:.3f} ln V (limit {FINAL})"),
    ]
    if len({result.run.step_size for result in results}) > 1:
        spread = max(spreads(results).values())
        text = f"final losses differ by at most {spread:.1e} nats between step sizes (limit {SPREAD})"
        verdicts.append(Verdict("step size", spread, SPREAD, text))
    return verdicts


def spreads(results: Sequence[Result]) -> dict[tuple[str, float, int], float]:
    """Range of the final losses over the step sizes in nats, by recipe, learning rate and seed."""
    groups: dict[tuple[str, float, int], list[float]] = {}
    for result in results:
        groups.setdefault((result.run.recipe, result.run.lr, result.run.seed), []).append(result.final)
    return {key: max(values) - min(values) if math.isfinite(max(values)) else math.inf for key, values in groups.items()}


def show(results: Sequence[Result], verdicts: Sequence[Verdict], console: Console) -> None:
    """The table, a row for the seeds of each setting, and the verdicts."""
    table = plain_table()
    for name in ("recipe", "lr", "step size", "seeds", "first / ln V", "largest / ln V", "final (nats)"):
        table.add_column(name, justify="left" if name == "recipe" else "right")
    groups: dict[tuple[str, float, float], list[Result]] = {}
    for result in results:
        groups.setdefault((result.run.recipe, result.run.lr, result.run.step_size), []).append(result)
    for (recipe, lr, step_size), members in groups.items():
        first = max((member.first for member in members), key=lambda value: abs(value - 1))
        largest, final = max(member.largest for member in members), fmean(member.final for member in members)
        numbers = (f"{first:.4f}", f"{largest:.4f}", f"{final:.4f}")
        table.add_row(recipe, f"{lr:g}", f"{step_size:g}", str(len(members)), *numbers)
    print_table(console, "Training losses: the worst of the seeds, and the mean of the final ones", table)
    for verdict in verdicts:
        console.print(
            f"{'[green]met   ' if verdict.met else '[bold red]MISSED'}[/] {verdict.name}: {verdict.text}", highlight=False
        )


def draw(results: Sequence[Result], path: Path) -> None:
    """Loss curves: a panel for each recipe and learning rate, a colour for each step size."""
    recipes, rates, step_sizes = (
        list(dict.fromkeys(getattr(result.run, name) for result in results)) for name in ("recipe", "lr", "step_size")
    )
    with picture(path, max(8.0, 4.0 * len(rates)), max(5.0, 3.0 * len(recipes))) as figure:
        panels = figure.subplots(len(recipes), len(rates), sharex=True, sharey=True, squeeze=False)
        for result in results:
            panel = panels[recipes.index(result.run.recipe)][rates.index(result.run.lr)]
            kind = step_sizes.index(result.run.step_size)
            width = 1.0 + 2.0 * (len(step_sizes) - 1 - kind)  # equal curves cover each other: the later, the thinner
            label = f"initial step size {result.run.step_size:g}" if result.run.seed == 0 else None
            updates = range(1, len(result.losses) + 1)
            panel.plot(
                updates, result.losses, color=COLOURS[kind % len(COLOURS)], linewidth=width, zorder=2 + kind, label=label
            )
        for (recipe, lr), panel in zip(product(recipes, rates), panels.flat, strict=True):
            panel.axhline(results[0].guessing, color=GREY, linestyle="--", linewidth=1)
            panel.set_title(f"recipe {recipe}, learning rate {lr:g}")
        for panel in panels[-1]:
            panel.set_xlabel("update")
        for panel in panels[:, 0]:
            panel.set_ylabel("loss (nats per byte)")
        panels[0][0].legend(title="dashed: ln V")


def summary(results: Sequence[Result], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Everything in one JSON object; what is infinite is null."""

    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "verdicts": [{**asdict(verdict), "value": finite(verdict.value), "met": verdict.met} for verdict in verdicts],
        "runs": [
            {**asdict(result.run), "stopped": result.stopped, "seconds": result.seconds}
            | {name: finite(getattr(result, name)) for name in ("first", "largest", "final")}
            for result in results
        ],
        "guessing": results[0].guessing,
        "settings": results[0].run.settings(),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), "lightning": version("lightning"), "torch": torch.__version__},
    }


def _list_of(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def values(text: str) -> list[Any]:
        return list(dict.fromkeys(kind(part) for part in text.split(",")))

    return values


def _recipe(text: str) -> str:
    if text not in RECIPES:
        raise argparse.ArgumentTypeError(f"{text!r} is no recipe: choose from {', '.join(RECIPES)}")
    return text


def _options() -> argparse.ArgumentParser:
    numbers = _list_of(number_in(0))
    lr = DEMO.optimisation.lr
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the library's own recipe and one learning rate: minutes")
    parser.add_argument("--recipes", type=_list_of(_recipe), metavar="A,B,..", help=f"default: {','.join(RECIPES)}; quick: own")
    parser.add_argument(
        "--lr", type=numbers, metavar="X,Y,..", help=f"learning rates (default: {lr / 4:g},{lr:g},{4 * lr:g}; quick: {lr:g})"
    )
    parser.add_argument(
        "--step-sizes", type=numbers, default=[1.0, 50.0, 1000.0], metavar="X,Y,..", help="initial ones (default: 1,50,1000)"
    )
    parser.add_argument("--seeds", type=count_from(1), default=5, metavar="N", help="seeds 0 .. N-1 (default: 5)")
    parser.add_argument("--updates", type=count_from(1), default=60, metavar="N", help="per run (default: 60)")
    parser.add_argument(
        "--out", default="runs/stability", metavar="DIR", help="finished runs and stability.png (default: runs/stability)"
    )
    parser.add_argument("--json", metavar="FILE", help="write verdicts and numbers into this file, too")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark. Exit codes: 0, all criteria met; 1, one is missed; 2, bad input; 130, interrupted."""
    args, console = _options().parse_args(argv), Console()
    lr = DEMO.optimisation.lr
    recipes = args.recipes or (["own"] if args.quick else list(RECIPES))
    rates = args.lr or ([lr] if args.quick else [lr / 4, lr, 4 * lr])
    runs = [
        Run(recipe, lr, step_size, seed, args.updates)
        for recipe, lr, seed, step_size in product(recipes, rates, range(args.seeds), args.step_sizes)
    ]
    quiet()
    try:
        folder = out_folder(args.out) or Path()
        results = collect(runs, folder, console)
    except InputError as error:
        print(f"stability: error: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, SystemExit):  # SystemExit: Lightning's answer to Ctrl-C
        print("stability: interrupted; the same command goes on after the last finished run", file=sys.stderr)
        return 130
    verdicts, written = judge(results), [folder / "stability.png"]
    show(results, verdicts, console)
    draw(results, written[0])
    if args.json:
        Path(args.json).parent.mkdir(parents=True, exist_ok=True)
        Path(args.json).write_text(json.dumps(summary(results, verdicts), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        written.append(Path(args.json))
    say_written(console, written)
    return 0 if all(verdict.met for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
