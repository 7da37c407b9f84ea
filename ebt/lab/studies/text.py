"""The plan of text studies, and numbers from thinking curves."""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from ebt.lab.studies import sets
from ebt.lab.studies.measure import CHOOSING, MEASURED, measure_curve
from ebt.lab.studies.models import HELD_OUT, NETWORK, OPTIMISATION, RECIPES, TIMES, TITLES, train_model
from ebt.lab.studies.runs import Result, Run, Work
from ebt.models.exploration import check_counts
from ebt.thinking import Recipe

Results = Mapping[str, Result]
MEAN_NOISES = (1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class TextPlan:
    """The common settings of text studies."""

    out: Path
    store: Path
    """Folder of the trained models, which studies share."""
    train: str
    validation: str | None
    tokenizer: str
    updates: int
    seeds: int
    contexts: int
    steps: tuple[int, ...]
    candidates: int
    noise: float
    context_length: int
    mean_noises: tuple[float, ...] = MEAN_NOISES
    """Langevin noises to choose from for means of candidates, which must differ to be useful."""
    batch_size: int = 16

    @classmethod
    def of(cls, args: argparse.Namespace) -> TextPlan:
        """Create the plan from the options. Defaults are smaller in a quick study."""
        quick = args.quick
        return cls(
            out=Path(args.out),
            store=Path(args.models),
            train=args.train,
            validation=args.validation,
            tokenizer=args.tokenizer,
            updates=args.updates or (4 if quick else 1000),
            seeds=args.seeds,
            contexts=args.contexts or (8 if quick else 256),
            steps=tuple(check_counts("--steps", args.steps or ([1, 2, 3, 4] if quick else [1, 2, 3, 4, 6, 8, 12]))),
            candidates=args.candidates or (3 if quick else 5),
            noise=args.candidate_noise,
            context_length=args.context_length,
            mean_noises=MEAN_NOISES[:1] if quick else MEAN_NOISES,
        )

    def model(self, kind: str, seed: int) -> Run:
        """Return the training run of a model."""
        recipe = RECIPES.get(kind)
        text = {
            "train": identity(self.train),
            "validation": None if self.validation is None else identity(self.validation),
            "tokenizer": self.tokenizer,
            "context_length": self.context_length,
            "batch_size": self.batch_size,
        }
        settings = {
            "kind": "ebt" if recipe else "transformer_pp",
            "recipe": asdict(recipe) if recipe else None,
            "network": NETWORK,
            "optimisation": asdict(OPTIMISATION),
            "text": text,
            "updates": self.updates * TIMES.get(kind, 1),
            "seed": seed,
        }
        run = Run(f"model {kind} {seed}", train_model, settings, self.store / "raw")
        folder = self.store / "models" / run.key
        places = {"train": self.train, "validation": self.validation, "model": str(folder)}
        return Run(run.name, run.work, settings, run.folder, places, folder / "config.json")

    def measurement(self, work: Work, kind: str, seed: int, text: str = MEASURED, **settings: Any) -> Run:
        """Return a measurement of a trained model on a half of the held-out text or a set."""
        model = self.model(kind, seed)
        about = {"half": text} if text in (CHOOSING, MEASURED) else identity(text)
        given = {"model": model.settings, "text": about, "contexts": self.contexts, **settings}
        return Run(f"{kind} {seed} {Path(text).name}", work, given, self.out / "raw", {**model.places, "text": text})

    def curve(self, kind: str, seed: int, text: str) -> Run:
        """Return the measurement of a thinking curve on a text."""
        if kind not in RECIPES:
            return self.measurement(measure_curve, kind, seed, text, steps=[1], candidates=[1], candidate_noise=0.0)
        steps = sorted({*self.steps, RECIPES[kind].min_steps, RECIPES[kind].own_steps})
        how = {"steps": steps, "candidates": sorted({1, self.candidates}), "candidate_noise": self.noise}
        return self.measurement(measure_curve, kind, seed, text, **how)

    def mean_curve(self, kind: str, seed: int, text: str, noise: float = MEAN_NOISES[0]) -> Run:
        """Return the measurement of a thinking curve with the rule mean, from the lowest trained number of steps on."""
        lowest, most = RECIPES[kind].min_steps, last_of_mean(kind)
        how = {"steps": [lowest, most], "candidates": sorted({1, self.candidates}), "candidate_noise": noise}
        run = self.measurement(measure_curve, kind, seed, text, **how, rule="mean", mean_from=lowest)
        return replace(run, name=f"{run.name} mean {noise:g}")

    def models(self, kinds: Sequence[str]) -> list[Run]:
        """Return the training runs of all seeds."""
        return [self.model(kind, seed) for seed in range(self.seeds) for kind in kinds]

    def setting(self, kinds: Sequence[str], results: Results) -> list[str]:
        """Describe the training and the measurement in sentences."""
        made = {kind: [results[self.model(kind, seed).key].values for seed in range(self.seeds)] for kind in kinds}
        sizes = ", ".join(f"{TITLES[kind]} {found[0]['parameters']:,}" for kind, found in made.items())
        seconds = ", ".join(f"{TITLES[kind]} {fmean(one['seconds'] for one in found):.0f}" for kind, found in made.items())
        held_out = f"{HELD_OUT:.0%} of its documents" if self.validation is None else Path(self.validation).name
        unit = "bytes" if self.tokenizer == "bytes" else f"tokens of {self.tokenizer}"
        about = "as many operations as EBTs by the paper's recipes, and 1.8 times those of one by the library's own"
        longer = [f" {TITLES[kind]}: {about}." for kind in kinds if kind in TIMES]
        trained = ", ".join(f"{TITLES[kind]} {_trained(RECIPES[kind])}" for kind in kinds if kind in RECIPES)
        return [
            f"Trained on {Path(self.train).name}, held out: {held_out}. All models see the same "
            f"{self.updates * self.batch_size * self.context_length:,} {unit} in the same batches ({self.updates:,} updates of "
            f"{self.batch_size} contexts of {self.context_length}), with the same optimiser.{''.join(longer)}",
            f"Seeds {', '.join(map(str, range(self.seeds)))}: of weights, batches and starts. Intervals are Student's, 95 %, "
            "over the seeds, unless something else is said.",
            f"Parameters: {sizes}. Mean seconds of training: {seconds}.",
            f"Thinking steps in training: {trained}.",
            f"Each number is on {self.contexts} contexts, {self.contexts * self.context_length:,} scored tokens a model: every "
            "token is predicted from those before it in its context. Perplexity is the exponential of the mean loss over them.",
            "Half of the held-out text serves to choose numbers of steps, the other half to measure.",
        ]


def _trained(recipe: Recipe) -> str:
    least, most = recipe.min_steps, recipe.own_steps
    return str(least) if least == most else f"{least} to {most}"


@functools.cache
def identity(source: str) -> dict[str, str]:
    """Return ``sets.identity(source)``, reading each file once."""
    return sets.identity(source)


def nats_at(result: Result, steps: int, candidates: int = 1) -> float:
    """Return the nats per token of a thinking curve, infinite if not finite."""
    for point in result.values["points"]:
        if (point["steps"], point["candidates"]) == (steps, candidates):
            return math.inf if point["nats"] is None else float(point["nats"])
    raise KeyError(f"{steps} steps with {candidates} candidates were not measured")


def longer(kind: str, choosing: Result, candidates: int = 1) -> int:
    """Return the best number of steps above the lowest trained one on the choosing half."""
    tried = {point["steps"] for point in choosing.values["points"] if point["steps"] > RECIPES[kind].min_steps}
    return min(tried, key=lambda steps: (nats_at(choosing, steps, candidates), steps))


def last_of_mean(kind: str) -> int:
    """Return the last step of means: the largest trained number of steps, or the lowest plus one if these are equal."""
    return max(RECIPES[kind].own_steps, RECIPES[kind].min_steps + 1)


def improvement(before: float, after: float) -> float:
    """Return the percentage by which the perplexity falls, from nats per token."""
    return 100 * (1 - math.exp(after - before))
