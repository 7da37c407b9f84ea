"""Train in two ways that should learn equally well: exact gradients and cheaper ones, without and with a ranking loss.

    python benchmarks/curves.py --out runs/curves --json curves.json
    python benchmarks/curves.py --compare table --out runs/table --json table.json
    python benchmarks/curves.py --compare ranking --only 'text own' boards --out runs/ranking --json ranking.json

``gradients`` compares exact gradients of gradients with central differences, in six cases on embedded data: text with the
paper's S1 and S2 and the library's own recipe, 6x6 boards, denoising, moving digits. ``table`` compares gradients of the
candidate table with and without its input side (``network.input_gradient``), on text of a large vocabulary. ``ranking``
compares energies that are not supervised with ``recipe.ranking``: also by how well energies judge, that is by the AUROC for
wrong tokens and cells, less that of the same model's entropy, or by the rank correlation with errors. Both ways train from the
same weights on the same batches with the same random draws; seeds differ in weights and draws. Models are evaluated as by
``ebt validate``. A case is within the spread if the mean paired difference of its losses is at most the standard deviation of
the usual way over seeds. A finished run is one JSON file in ``--out``; an interrupted benchmark continues where it stopped.
After a change of the code, start with an empty folder.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import lightning as L
import torch
from rich.console import Console
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))  # benchmarks import each other
from race import write

from ebt.cli.parser import Options, count_from, number_in
from ebt.cli.terminal import numbers, out_folder, plain_table, print_table
from ebt.errors import InputError
from ebt.evaluation.statistics import auroc, spearman
from ebt.lab.studies.command import gather
from ebt.lab.studies.pool import Report
from ebt.lab.studies.runs import Json, Result, Run
from ebt.lab.studies.trained import optimisation_of
from ebt.problems.images.data import ImageDataModule
from ebt.problems.images.task import DenoisingNetwork, DenoisingTask
from ebt.problems.language.corpora import PYTHON_DOCS, open_source
from ebt.problems.language.data import TextDataModule
from ebt.problems.language.task import LanguageNetwork, LanguageTask
from ebt.problems.language.tokenizers import train_bpe
from ebt.problems.sudoku.data import SudokuDataModule
from ebt.problems.sudoku.task import SudokuNetwork, SudokuTask
from ebt.problems.video.data import VideoDataModule
from ebt.problems.video.task import VideoNetwork, VideoTask
from ebt.thinking import Recipe, Simplex
from ebt.thinking.ranking import like
from ebt.training.loop import quiet, train
from ebt.training.optimisation import Optimisation

Settings = dict[str, Any]
WAYS = {"gradients": ("exact", "central"), "table": ("exact", "detached"), "ranking": ("free", "ranked")}
"""The two ways of each comparison."""
WORDS = 8192
"""Tokens of the large vocabulary, byte pairs of the training text."""
PARTS: dict[str, tuple[Any, Any, Any, Settings]] = {
    "text": (LanguageTask, LanguageNetwork, TextDataModule, {"sample_every": 0}),
    "boards": (SudokuTask, SudokuNetwork, SudokuDataModule, {}),
    "images": (DenoisingTask, DenoisingNetwork, ImageDataModule, {"picture_every": 0}),
    "frames": (VideoTask, VideoNetwork, VideoDataModule, {}),
}
"""By problem: task, network, data module, settings of the task."""
NETWORKS: dict[str, Settings] = {
    "text": {"size": "nano", "dim": 96},
    "boards": {"size": "nano", "layers": 4, "space": "restart"},
    "images": {"layers": 2, "dim": 192, "heads": 4},
    "frames": {"layers": 2, "dim": 256, "heads": 8, "ffn_dim": 384, "space": "restart"},
}
DATA: dict[str, Settings] = {
    "text": {"context_length": 64, "batch_size": 16, "evaluation_batch_size": 64},
    "boards": {"train_count": 4000, "validation_count": 200, "batch_size": 32, "evaluation_batch_size": 100},
    "images": {"size": 32, "crops": 32, "evaluation_crops": 16, "batch_size": 8, "evaluation_batch_size": 32},
    "frames": {"clips": 4096, "evaluation_clips": 128, "batch_size": 8, "evaluation_batch_size": 64},
}
QUICK: dict[str, Settings] = {
    "text": {"context_length": 8, "batch_size": 2, "evaluation_batch_size": 2},
    "boards": {
        "size": 4,
        "train_count": 8,
        "train_givens": (8, 10),
        "validation_count": 2,
        "test_count": 1,
        "test_givens": (8,),
    },
    "images": {"size": 16, "crops": 1, "evaluation_crops": 1, "batch_size": 2},
    "frames": {"context_length": 4, "clips": 8, "evaluation_clips": 2, "batch_size": 2},
}
TINY: Settings = {"layers": 1, "dim": 8, "heads": 2, "size": "nano"}
BATCHES = 16
"""Most validation batches."""
POINTS = 20
"""Number of means that keep the training losses of a run."""
SHARES = {"exact": "solved %", "cells": "cells %"}
"""Metrics that are shares, and how they are shown."""
JUDGED = ("auroc", "auroc less entropy", "correlation")
"""How well energies judge: the first two on a vocabulary, the last one elsewhere."""


@dataclass(frozen=True)
class Case:
    """A problem with a recipe."""

    problem: str
    recipe: Recipe
    updates: int
    lr: float
    scores: tuple[str, ...] = ("loss",)
    """The metrics to compare; the first one decides."""
    ranking: float = 0.5
    """Weight of the ranking loss, in units of the loss."""


CASES = {
    "text S1": Case("text", Recipe.s1(), 280, 4e-3),
    "text S2": Case("text", Recipe.s2(), 280, 4e-3),
    "text own": Case("text", Recipe.warm(), 400, 4e-3),
    "boards": Case("boards", Recipe(min_steps=2, max_steps=4), 380, 3e-3, ("loss", *SHARES)),
    "images": Case("images", Recipe(1, 2, replay_size=64, replay_fraction=0.25), 1100, 3e-3, ("loss", "psnr"), 0.01),
    "frames": Case(
        "frames", Recipe(1, 3, gradients="truncated", loss="last", start_std=0.3, warm_start=0.6), 1200, 2e-3, ranking=0.01
    ),
}


class Losses(L.Callback):
    """The training losses of all updates."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.found.append(outputs["loss"].item())

    def curve(self) -> list[float]:
        """Means over equal parts of the training."""
        size = -(-len(self.found) // POINTS)
        return [fmean(self.found[first : first + size]) for first in range(0, len(self.found), size)]


def tokenizer_of(folder: Path, quick: bool) -> str:
    """The folder of a tokenizer with a large vocabulary, trained if it is not there."""
    words = 300 if quick else WORDS
    found = folder / f"tokenizer-{words}"
    if not found.exists():
        train_bpe(open_source(PYTHON_DOCS)["train"], words).save_pretrained(found)
    return str(found)


def run_of(name: str, way: str, seed: int, args: argparse.Namespace, folder: Path) -> Run:
    """A training run with its evaluation."""
    case, quick, places = CASES[name], args.quick, {}
    recipe, own = {**asdict(case.recipe), "second_order": "exact"}, Settings()
    if args.compare == "gradients":
        recipe["second_order"] = way
    elif args.compare == "ranking":
        recipe["ranking"] = case.ranking if way == "ranked" else 0.0
    else:
        own, places = {"input_gradient": way == "exact"}, {"tokenizer": tokenizer_of(folder, quick)}
    settings: Settings = {
        "problem": case.problem,
        "recipe": recipe | ({"replay_size": 4} if quick and case.recipe.replay_size else {}),
        "network": {**NETWORKS[case.problem], **(TINY if quick else {}), **own},
        "data": QUICK[case.problem] if quick else DATA[case.problem],
        "optimisation": asdict(Optimisation(case.lr, warmup_steps=2 if quick else 30, min_lr_ratio=0.05)),
        "updates": 3 if quick else round(case.updates * args.times),
        "batches": 1 if quick else BATCHES,
        "seed": seed,
    }
    label = name if args.compare == "gradients" else f"{name} {args.compare}"
    return Run(f"{label} {way} {seed}", work, settings, folder, places, cost=float(settings["updates"]))


def work(settings: Json, places: Json, report: Report) -> Settings:
    """Train and evaluate a model. Time is that of the processor, which other programs do not change."""
    make_task, make_network, make_data, own = PARTS[settings["problem"]]
    data, losses = make_data(seed=0, **settings["data"] | places), Losses()
    data.prepare()
    thinking = {"recipe": Recipe(**settings["recipe"]), "optimisation": optimisation_of(settings), "validation_steps": [1]}
    task = make_task(make_network(**settings["network"]), seed=settings["seed"], **thinking, **own)
    began = time.process_time()
    train(task, data, settings["updates"], report, losses)
    seconds = time.process_time() - began
    with quiet():
        still = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        trainer = L.Trainer(accelerator="cpu", devices=1, limit_val_batches=settings["batches"], inference_mode=False, **still)
        trainer.validate(task, data, verbose=False)
    metrics = {name.removeprefix("val/"): value.item() for name, value in trainer.callback_metrics.items()}
    metrics |= judged(task, list(islice(data.val_dataloader(), settings["batches"])))
    return {"metrics": metrics, "curve": losses.curve(), "seconds": seconds}


@torch.no_grad()
def judged(task: Any, batches: Sequence[Any]) -> dict[str, float]:
    """How well energies and entropies tell where the answers are wrong, over all scored parts of batches."""
    geometry, energies, mistakes, entropies = task.geometry(), list[Tensor](), list[Tensor](), list[Tensor]()
    for batch in batches:
        thought, target = task.explore(batch, [task.steps]).at(task.steps, 1), task.target(batch)
        found = geometry.mistakes(thought.state, target)
        scored = geometry.scored(target).expand_as(found)
        energies.append(like(thought.energies[-1], found)[scored])
        mistakes.append(found[scored])
        if isinstance(geometry, Simplex):
            entropies.append(geometry.entropy(thought.state)[scored])
    energy, mistake = torch.cat(energies), torch.cat(mistakes)
    if not entropies:
        return {"correlation": spearman(energy.double().numpy(), mistake.double().numpy())}
    by_energy, by_entropy = auroc(energy, mistake > 0), auroc(torch.cat(entropies), mistake > 0)
    return {} if by_energy is None or by_entropy is None else {"auroc": by_energy, "auroc less entropy": by_energy - by_entropy}


def summarise(name: str, found: Mapping[str, Sequence[Result]]) -> list[Settings]:
    """Compare the two ways of a case, the first in ``found`` being the usual one: one summary for each score."""
    usual, way = found
    time_ratio = sum(run.values["seconds"] for run in found[way]) / sum(run.values["seconds"] for run in found[usual])
    gaps = [
        max(abs(b - a) for a, b in zip(one.values["curve"], other.values["curve"], strict=True))
        for one, other in zip(found[usual], found[way], strict=True)
    ]
    summaries = []
    known = [run.values["metrics"] for runs in found.values() for run in runs]
    for score in (
        *CASES[name].scores,
        *(one for one in JUDGED if usual == "free" and all(one in metrics for metrics in known)),
    ):
        exact, cheap = ([run.values["metrics"][score] for run in found[name]] for name in (usual, way))
        differences = [b - a for a, b in zip(exact, cheap, strict=True)]
        spread, mean = (stdev(exact) if len(exact) > 1 else None), fmean(differences)
        summaries.append(
            {
                "case": name,
                "score": score,
                **{name: {"mean": fmean(values), "values": values} for name, values in ((usual, exact), (way, cheap))},
                "spread": spread,
                "differences": differences,
                "mean difference": mean,
                "within the spread": None if spread is None else abs(mean) <= spread,
                "time ratio": time_ratio,
                "largest gap of training losses": max(gaps),
            }
        )
    return summaries


def show(summaries: Sequence[Settings], usual: str, way: str, console: Console) -> None:
    """Print a row for each score, of the usual way and another one."""
    columns = (usual, "spread", way, "difference", "/ spread", "time")
    table = plain_table("case", *numbers(*columns), "verdict")
    for one in summaries:
        percent = 100 if one["score"] in SHARES else 1
        digits = 1 if percent == 100 else 4
        spread, difference = one["spread"], one["mean difference"]
        known = spread is not None
        table.add_row(
            f"{one['case']}, {SHARES.get(one['score'], one['score'])}",
            f"{percent * one[usual]['mean']:.{digits}f}",
            f"{percent * spread:.{digits}f}" if known else "-",
            f"{percent * one[way]['mean']:.{digits}f}",
            f"{percent * difference:+.2g}",
            f"{abs(difference) / spread:.2g}" if known and spread else "-",
            f"{one['time ratio']:.2f}",
            {None: "one seed", True: "within", False: "outside"}[one["within the spread"]],
        )
    note = f"Spread: standard deviation of {usual} over seeds. Time: processor time of training, {way} over {usual}."
    print_table(console, f"validation after training, {usual} against {way}", table, note)


def _options() -> Options:
    options = Options(
        "", (__doc__ or "").splitlines()[0], "python benchmarks/curves.py --only boards images --json curves.json"
    )
    options.prog = "python benchmarks/curves.py"
    add = options.add_argument
    told = "gradients of gradients, gradients of the candidate table, or the ranking loss (default: gradients)"
    add("--compare", choices=list(WAYS), default="gradients", help=told)
    add("--only", nargs="+", metavar="CASE", help=f"some of the cases: {', '.join(CASES)} (default: all)")
    add("--seeds", type=count_from(1), default=3, metavar="N", help="training runs per case and way (default: 3)")
    add("--times", type=number_in(0), default=1.0, metavar="X", help="factor on the numbers of updates (default: 1, an hour)")
    add("--jobs", type=count_from(1), default=1, metavar="N", help="runs at the same time, with one thread each (default: 1)")
    add("--out", default="runs/curves", metavar="DIR", help="finished runs (default: runs/curves)")
    add("--quick", action="store_true", help="tiny models that learn nothing")
    add("--json", metavar="FILE", help="also write the numbers into this file")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Train the missing runs, and print the table."""
    args, console = _options().parse_args(sys.argv[1:] if argv is None else list(argv)), Console()
    cases = [name for name, case in CASES.items() if args.compare != "table" or case.problem == "text"]
    names, ways = args.only or cases, WAYS[args.compare]
    if unknown := [name for name in names if name not in cases]:
        raise InputError(f"--only: there is no case {unknown[0]!r} of {args.compare}: choose from {', '.join(cases)}.")
    folder = out_folder(args.out)
    assert folder is not None
    runs = {
        (name, way, seed): run_of(name, way, seed, args, folder) for seed in range(args.seeds) for name in names for way in ways
    }
    results = gather([list(runs.values())], args.jobs, console)
    summaries = []
    for name in names:
        found = {way: [results[runs[name, way, seed].key] for seed in range(args.seeds)] for way in ways}
        summaries += summarise(name, found)
    show(summaries, *ways, console)
    write(args.json, args, summaries, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
