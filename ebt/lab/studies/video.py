"""Next frames of moving digits: an EBT against Transformer++ with equal training time."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebt.evaluation.measure import thinks
from ebt.evaluation.statistics import Estimate, over_seeds
from ebt.lab.plots.studies import step_lines
from ebt.lab.studies.page import Page, Table, Verdict, cases, listed, shown
from ebt.lab.studies.pool import Report
from ebt.lab.studies.runs import Json, Result, Run
from ebt.lab.studies.trained import train_from_settings
from ebt.models.exploration import check_counts
from ebt.problems.folder import load_folder
from ebt.problems.images.sources import to_picture
from ebt.problems.video.data import VideoDataModule, held_out_frames
from ebt.problems.video.metrics import frame_energies, repeat_loss, rollout, video_curve
from ebt.problems.video.moving_digits import DigitReader, digit_images
from ebt.problems.video.task import VideoNetwork, VideoTask
from ebt.thinking import Recipe
from ebt.training.optimisation import Optimisation

EBT, TWIN = "ebt", "transformer_pp"
KINDS = {EBT: "EBT", TWIN: "Transformer++"}
REPEAT = "repeating the last frame"
VALIDATION = "validation"
TESTED = "digits"
SETS = (VALIDATION, TESTED, "shifted")
"""Sets: steps are chosen on the first and measured on the others. The last has two digits at another speed."""
NETWORK = {"layers": 2, "dim": 256, "heads": 8, "ffn_dim": 384}
RECIPE = Recipe(1, 3, gradients="truncated", loss="last", start_std=0.3, warm_start=0.6)
OPTIMISATION = Optimisation(lr=2e-3, warmup_steps=100, weight_decay=0.01, min_lr_ratio=0.02)
LONGER = 4
"""Factor by which thinking may be longer than in training."""
LIMITS = {"rival": 2.0, "repeat": 30.0, "longer": 1.0, "read": 80.0, "spearman": 0.4}
"""Limits in per cent: above Transformer++'s loss, below that of repeating, above that of the trained steps, digits read; and a
rank correlation."""
ENERGY, WITHIN, MOVES = "energy and loss", "energy and loss, within clips", "last move and loss"
OVER = "energy less that of repeating and loss"
"""Rank correlations: over all frames, within clips, of the distance that the last step moved a frame, and of the energy less
that of repeating the frame before."""
KNOWS = {
    ENERGY: "energy tells the error",
    OVER: "energy less that of repeating tells the error",
    WITHIN: "energy tells which frames of a clip are hard",
    MOVES: "how far the last step still moved tells the error",
}
AHEAD = 8
"""Number of frames of a rollout. The digits of the last one are read."""


@dataclass(frozen=True)
class VideoPlan:
    """The models to train and measure."""

    out: Path
    minutes: float
    clips: int
    steps: tuple[int, ...]
    seeds: int
    network: Mapping[str, int]
    data: Mapping[str, int]

    def model(self, kind: str, seed: int) -> Run:
        """Return the training run of a model."""
        settings = {
            "kind": kind,
            "network": dict(self.network),
            "recipe": asdict(RECIPE) if kind == EBT else None,
            "optimisation": asdict(OPTIMISATION),
            "data": dict(self.data),
            "minutes": self.minutes,
            "seed": seed,
        }
        run = Run(f"model {kind} {seed}", train_video_model, settings, self.out / "raw")
        folder = self.out / "models" / run.key
        return Run(run.name, run.work, settings, run.folder, {"model": str(folder)}, folder / "config.json")

    def measurement(self, kind: str, seed: int) -> Run:
        """Return the measurement of a model."""
        model = self.model(kind, seed)
        settings = {"model": model.settings, "clips": self.clips, "steps": list(self.steps)}
        return Run(f"{kind} {seed}", measure_video, settings, self.out / "raw", model.places)


def plan(args: argparse.Namespace) -> VideoPlan:
    """Create the plan from the options. A quick study has small models."""
    steps = check_counts("--steps", args.steps or [1, 2, 3, 4, 6, 8, 12])
    own = RECIPE.own_steps
    return VideoPlan(
        Path(args.out),
        args.minutes or (0.02 if args.quick else 30.0),
        args.clips or (8 if args.quick else 256),
        tuple(sorted({*steps, own, LONGER * own})),
        args.seeds,
        {"layers": 1, "dim": 16, "heads": 2, "ffn_dim": 16} if args.quick else NETWORK,
        {"batch_size": 2, "clips": 8, "context_length": 4} if args.quick else {"batch_size": 16},
    )


def stages(plan: VideoPlan) -> list[list[Run]]:
    """Return the stages: models, then their measurements."""
    pairs = [(kind, seed) for seed in range(plan.seeds) for kind in KINDS]
    return [[plan.model(*pair) for pair in pairs], [plan.measurement(*pair) for pair in pairs]]


def train_video_model(settings: Json, places: Json, report: Report) -> dict[str, Any]:
    """Train a model for its time budget, and save it."""
    data = VideoDataModule(seed=settings["seed"], **settings["data"])
    return train_from_settings(VideoTask, VideoNetwork, data, settings, places, report)


def measure_video(settings: Json, places: Json, report: Report) -> dict[str, Any]:
    """Measure losses by set and number of steps, correlations of energy, and the digits of a rollout."""
    model: Any = load_folder(places["model"])
    data, count = VideoDataModule(seed=settings["model"]["seed"], **settings["model"]["data"]), settings["clips"]
    frames = {name: held_out_frames(data, name, data.length, count) for name in SETS}
    curves = {}
    for done, (name, clips) in enumerate(frames.items()):
        report(done, len(SETS) + 1, name)
        curves[name] = video_curve(model, clips, settings["steps"])
    chosen = curves[VALIDATION].best().steps
    report(len(SETS), len(SETS) + 1, "rollouts")
    ebt = thinks(model)
    return {
        "losses": {name: {str(point.steps): point.loss for point in curve.points} for name, curve in curves.items()},
        "repeat": {name: repeat_loss(clips).mean().item() for name, clips in frames.items()},
        "chosen": chosen,
        "knows": {name: knows(model, clips, chosen) for name, clips in frames.items()} if ebt else {},
        "reading": reading(model, data, count, chosen if ebt else None),
    }


def knows(model: Any, frames: Tensor, steps: int) -> dict[str, float]:
    """Return rank correlations of energy and error, and the mean energies of the second frame and of later ones.

    Energies are in standard deviations. The motion of the second frame is unknown.
    """
    found = frame_energies(model, frames, steps=steps)
    energies = found.energies[-1]
    scaled = (energies - energies.mean()) / energies.std().clamp_min(torch.finfo(energies.dtype).tiny)
    return {
        ENERGY: found.spearman,
        WITHIN: found.spearman_within_clips,
        OVER: found.spearman_over_repeating,
        MOVES: found.spearman_of_moves,
        "energy of the second frame": scaled[:, 0].mean().item(),
        "energy of the later frames": scaled[:, 1:].mean().item(),
    }


@cache
def reader() -> DigitReader:
    """Return the classifier of clean training digits."""
    source = digit_images()["train"]
    return DigitReader(source.images, source.labels)


def reading(model: Any, data: VideoDataModule, count: int, steps: int | None) -> dict[str, float]:
    """Return the share of digits read in the last frame of a rollout, the true frame, and the last given frame."""
    given = data.context_length
    clips = [data.digits["digits"].clip(i, given + AHEAD) for i in range(count)]
    frames = held_out_frames(data, "digits", given + AHEAD, count)
    found = rollout(model, frames[:, :given], AHEAD, steps=steps)
    labels, places = np.stack([clip.labels for clip in clips]), np.stack([clip.places[-1] for clip in clips])
    shown = {"rollout": found.frames[:, -1], "true frame": frames[:, -1], REPEAT: frames[:, given - 1]}
    return {name: float((reader().read(_pixels(data, part), places) == labels).mean()) for name, part in shown.items()}


def _pixels(data: VideoDataModule, vectors: Tensor) -> np.ndarray:
    return np.stack([np.array(to_picture(frame)) for frame in data.encoder.decode(vectors)])


@dataclass(frozen=True)
class Measured:
    """The measurements of both kinds of models, by seed."""

    plan: VideoPlan
    ebt: list[Mapping[str, Any]]
    twin: list[Mapping[str, Any]]

    def best(self, name: str) -> dict[str, list[float]]:
        """Return the losses on a set: the EBT at the chosen number of steps, Transformer++, and repeating."""
        own = [one["losses"][name][str(one["chosen"])] for one in self.ebt]
        return {
            EBT: own,
            TWIN: [one["losses"][name]["1"] for one in self.twin],
            REPEAT: [one["repeat"][name] for one in self.ebt],
        }

    def over(self, name: str, rival: str, kind: str = EBT) -> Estimate:
        """Return the percentage by which losses exceed those of a baseline."""
        losses = self.best(name)
        return over_seeds([100 * (own / other - 1) for own, other in zip(losses[kind], losses[rival], strict=True)])

    def longer(self, name: str, steps: int) -> Estimate:
        """Return the percentage by which losses exceed those at the largest trained number of steps."""
        trained = str(RECIPE.own_steps)
        return over_seeds([100 * (one["losses"][name][str(steps)] / one["losses"][name][trained] - 1) for one in self.ebt])


def report(plan: VideoPlan, results: Mapping[str, Result]) -> Page:
    """Create tables, verdicts and a plot."""
    seeds = range(plan.seeds)
    found = Measured(plan, *([results[plan.measurement(kind, seed).key].values for seed in seeds] for kind in KINDS))
    made = {kind: [results[plan.model(kind, seed).key].values for seed in seeds] for kind in KINDS}
    step_lines({name: _lines(found, name) for name in SETS}, plan.out / "video.png", "smooth L1 per frame", "Moving digits")
    sizes = "; ".join(
        f"{KINDS[kind]} {each[0]['parameters']:,}, {', '.join(str(one['updates']) for one in each)}"
        for kind, each in made.items()
    )
    judged = _verdicts(found)
    return Page(
        title="Next frames of moving digits",
        question="A digit moves through a small frame, and its edges throw it back. Does an EBT predict the next frame as well "
        "as Transformer++ after the same time, does longer thinking harm, and does the energy of a frame tell its error?",
        setting=[
            f"Smooth L1 (beta 1) per frame, mean over its pixels; for each set {plan.clips} clips of digits that training "
            "never showed. shifted: two digits, at a speed that training did not have.",
            f"{plan.minutes:g} minutes of one processor for each model, the same blocks, sizes, batches and optimiser. The EBT "
            f"learns as its feed-forward twin for {RECIPE.warm_start:.0%} of its time, then with {RECIPE.min_steps} to "
            f"{RECIPE.max_steps} steps. Weights are averaged over the second half of the time, of the EBT over the second half "
            f"of that in which it thinks. Parameters and updates by seed: {sizes}.",
            f"The number of steps is chosen on {VALIDATION}: {', '.join(str(one['chosen']) for one in found.ebt)}; verdicts "
            f"are on {TESTED}, which chose nothing. Seeds "
            f"{', '.join(map(str, seeds))}; intervals are Student's, 95 %, over the seeds.",
            f"Rollouts: {AHEAD} frames, each predicted from those before it. A support vector machine, trained on clean digits "
            "alone, reads the last one.",
        ],
        tables=[_losses(found), _rest(found)],
        verdicts=judged,
        answer=answer(judged),
        pictures={"video.png": "Loss against thinking steps; bands are 95 % intervals over the seeds."},
        numbers={"measured": {EBT: found.ebt, TWIN: found.twin}, "trained": made},
    )


def answer(verdicts: Sequence[Verdict]) -> str:
    """Answer from the verdicts: what tells the error, the loss, and longer thinking."""
    named = {verdict.name: verdict for verdict in verdicts}
    error = shown("the error of a frame can be told", cases(verdicts, after=" tells the error"), "by")
    claims = ("the EBT is as good as Transformer++", "longer thinking does not harm")
    told = [f"{'' if named[name].met else 'they do not show that '}{name} ({named[name].told})" for name in claims]
    return f"{error} On the loss, {listed(told, 'and')}."


def _lines(found: Measured, name: str) -> dict[str, dict[int, dict[str, Any]]]:
    best = found.best(name)
    own = {step: asdict(over_seeds([one["losses"][name][str(step)] for one in found.ebt])) for step in found.plan.steps}
    return {KINDS[EBT]: own, KINDS[TWIN]: dict.fromkeys(found.plan.steps, asdict(over_seeds(best[TWIN])))}


def _losses(found: Measured) -> Table:
    rows = [[REPEAT, *(f"{fmean(found.best(name)[REPEAT]):.5f}" for name in SETS)]]
    rows += [[KINDS[TWIN], *(over_seeds(found.best(name)[TWIN]).around(5) for name in SETS)]]
    for step in found.plan.steps:
        each = (over_seeds([one["losses"][name][str(step)] for one in found.ebt]) for name in SETS)
        rows.append([f"EBT, {step} step{'s' if step > 1 else ''}", *(value.around(5) for value in each)])
    rows.append(["EBT over Transformer++, %", *(found.over(name, TWIN).around(1, sign=True) for name in SETS)])
    return Table("Smooth L1 per frame", ["", *SETS], rows, "Last row: the EBT at the chosen number of steps.")


def _rest(found: Measured) -> Table:
    rows = [
        [f"{KINDS[kind]}: digits read, {where}, %", over_seeds([100 * one["reading"][where] for one in each]).around(1)]
        for kind, each in ((EBT, found.ebt), (TWIN, found.twin))
        for where in each[0]["reading"]
    ]
    rows += [[f"{what}, {name}", _known(found, name, what)[1]] for what in found.ebt[0]["knows"][TESTED] for name in SETS]
    note = (
        f"Digits: in frame {AHEAD} of a rollout. Energy or move and loss: Spearman's rank correlation, over all frames or in "
        "each clip. Energies of frames: in standard deviations, from their mean."
    )
    return Table("Rollouts and energy", ["", "value"], rows, note)


def _known(found: Measured, name: str, what: str) -> tuple[float, str]:
    """Return the mean over the seeds in which a correlation is defined (not for a flat energy), and its text."""
    values = [known for one in found.ebt if (known := one["knows"][name].get(what)) is not None]
    return (fmean(values), over_seeds(values).around()) if values else (math.nan, "not known")


def _verdicts(found: Measured) -> list[Verdict]:
    steps = LONGER * RECIPE.own_steps
    rival, further = found.over(TESTED, TWIN), found.longer(TESTED, steps)
    read = over_seeds([100 * one["reading"]["rollout"] for one in found.ebt])
    verdicts = [
        Verdict(
            "the EBT is as good as Transformer++",
            rival.mean <= LIMITS["rival"],
            f"loss {rival.text(1, sign=True)} % over its (limit: +{LIMITS['rival']:g} %)",
        )
    ]
    for kind, title in KINDS.items():
        below = -found.over(TESTED, REPEAT, kind).mean
        text = f"loss {below:.1f} % below (limit: {LIMITS['repeat']:g} %)"
        verdicts.append(Verdict(f"{title} is better than {REPEAT}", below >= LIMITS["repeat"], text))
    return [
        *verdicts,
        Verdict(
            "longer thinking does not harm",
            further.mean <= LIMITS["longer"],
            f"{steps} over {RECIPE.own_steps} steps: {further.text(2, sign=True)} % (limit: {LIMITS['longer']:g} %)",
        ),
        Verdict(
            "digits can still be read",
            read.mean >= LIMITS["read"],
            f"{read.text(1)} % of them in frame {AHEAD} of a rollout (limit: {LIMITS['read']:g} %)",
        ),
        *(_correlated(found, what, title) for what, title in KNOWS.items() if what in found.ebt[0]["knows"][TESTED]),
    ]


def _correlated(found: Measured, what: str, title: str) -> Verdict:
    mean, told = _known(found, TESTED, what)
    return Verdict(title, mean >= LIMITS["spearman"], f"Spearman {told} (limit: {LIMITS['spearman']:g})")
