"""Ways to think longer on texts out of distribution, and their results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ebt.lab.studies.measure import CHOOSING, MEASURED, measure_temperatures
from ebt.lab.studies.models import EBTS, MORE, RECIPES, TRANSFORMER
from ebt.lab.studies.runs import Run
from ebt.lab.studies.text import Results, TextPlan, improvement, last_of_mean, longer, nats_at

KINDS = (TRANSFORMER, MORE, *EBTS)
LONGER = {
    "best": "last state",
    "verified": "best of {many}",
    "mean": "mean of steps",
    "means": "mean of {many}",
    "bold": "bold mean of {many}",
    "matched": "matched mean of {many}",
}
"""Ways to think longer, with their titles: the state after the best number of steps above the lowest trained one; that of the
candidate of lowest energy; the mean over steps from the lowest on; and the mean over several candidates, with the noise that is
best at home, the largest that costs nothing there, or the largest that matches Transformer++ there."""
MATCH = 1.0
"""Maximum excess in per cent over Transformer++'s perplexity at home to count as matched."""
JUDGED = ("best", "means", "bold")
"""Ways with verdicts."""
WAYS = ("lowest", "own", *LONGER)
FULL = "means"
"""The way in which an EBT is compared with Transformer++."""
SOFTER = "softer"
"""The largest temperature that matches Transformer++ at home, an alternative that also softens models without an energy. EBTs
answer by the mean of steps."""
TEMPERATURES = (1.0, 1.05, 1.08, 1.1, 1.15, 1.2, 1.25, 1.3, 1.4, 1.5)
"""Divisors of the logits."""
SOFTENED = (TRANSFORMER, *EBTS)


@dataclass(frozen=True)
class OodPlan:
    """A text study with named sets."""

    text: TextPlan
    sets: dict[str, str]

    @property
    def out(self) -> Path:
        """Folder of the pictures."""
        return self.text.out


def softer_run(text: TextPlan, kind: str, seed: int, source: str) -> Run:
    """Return the measurement of a model at several temperatures on a text."""
    lowest = RECIPES[kind].min_steps if kind in EBTS else 0
    how = {"steps": last_of_mean(kind), "rule": "mean", "mean_from": lowest} if kind in EBTS else {}
    run = text.measurement(measure_temperatures, kind, seed, source, temperatures=list(TEMPERATURES), **how)
    return replace(run, name=f"{run.name} temperatures")


def nats(plan: OodPlan, results: Results) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Return the nats per token by model, way to think, set and seed."""
    text, found = plan.text, dict[str, dict[str, dict[str, list[float]]]]()
    for kind in KINDS:
        found[kind] = {way: {name: [] for name in plan.sets} for way in (WAYS if kind in EBTS else WAYS[:1])}
        for seed in range(text.seeds):
            for way, (curve, steps, candidates) in _ways(text, kind, seed, results).items():
                for name, source in plan.sets.items():
                    found[kind][way][name].append(nats_at(results[curve(kind, seed, source).key], steps, candidates))
    for kind in SOFTENED:
        found[kind][SOFTER] = _softer(plan, kind, results)
    return found


def _softer(plan: OodPlan, kind: str, results: Results) -> dict[str, list[float]]:
    """Return the nats at the largest temperature that matches Transformer++ at home, or at 1 if none does."""
    found: dict[str, list[float]] = {name: [] for name in plan.sets}
    for seed in range(plan.text.seeds):
        rival = results[softer_run(plan.text, TRANSFORMER, seed, CHOOSING).key].values["1.0"]
        home, *others = (
            results[softer_run(plan.text, kind, seed, text).key].values for text in (CHOOSING, *plan.sets.values())
        )
        chosen = max((t for t in TEMPERATURES if improvement(rival, home[str(t)]) >= -MATCH), default=1.0)
        for name, values in zip(plan.sets, others, strict=True):
            found[name].append(values[str(chosen)])
    return found


Curves = Callable[[str, int, str], Run]


def _ways(text: TextPlan, kind: str, seed: int, results: Results) -> dict[str, tuple[Curves, int, int]]:
    """Return curve, steps and candidates of each way to think."""
    if kind not in EBTS:
        return {"lowest": (text.curve, 1, 1)}
    recipe, many, choosing = RECIPES[kind], text.candidates, results[text.curve(kind, seed, CHOOSING).key]
    lowest, last = nats_at(choosing, recipe.min_steps), last_of_mean(kind)
    with_noise = {noise: partial(text.mean_curve, noise=noise) for noise in text.mean_noises}
    at_home = {noise: nats_at(results[curve(kind, seed, CHOOSING).key], last, many) for noise, curve in with_noise.items()}
    calm = min(at_home, key=at_home.__getitem__)
    rival = results[softer_run(text, TRANSFORMER, seed, CHOOSING).key].values["1.0"]
    bold, matched = (
        max((noise for noise, nats in at_home.items() if improvement(than, nats) >= -lost), default=calm)
        for than, lost in ((lowest, 0), (rival, MATCH))
    )
    return {
        "lowest": (text.curve, recipe.min_steps, 1),
        "own": (text.curve, recipe.own_steps, 1),
        "best": (text.curve, longer(kind, choosing), 1),
        "verified": (text.curve, longer(kind, choosing, many), many),
        "mean": (text.mean_curve, last, 1),
        "means": (with_noise[calm], last, many),
        "bold": (with_noise[bold], last, many),
        "matched": (with_noise[matched], last, many),
    }


Nats = dict[str, dict[str, dict[str, list[float]]]]


def shifts(found: Nats) -> dict[str, list[float]]:
    """Return Transformer++'s nats per token on a set minus those on the held-out text, by seed."""
    rival = found[TRANSFORMER]["lowest"]
    return {name: [value - own for value, own in zip(values, rival[MEASURED], strict=True)] for name, values in rival.items()}


def gains(found: Nats, kind: str, way: str) -> dict[str, list[float]]:
    """Return the improvement of perplexity over the lowest trained number of steps in per cent, by set and seed."""
    return paired(found[kind]["lowest"], found[kind][way], improvement)


def against(found: Nats, kind: str, way: str, rival: str = TRANSFORMER, thinks: str = "lowest") -> dict[str, list[float]]:
    """Return the perplexity relative to that of a Transformer++, possibly at a temperature, in per cent; negative is better."""
    return paired(found[rival][thinks], found[kind][way], lambda theirs, own: -improvement(theirs, own))


def paired(
    before: dict[str, list[float]], after: dict[str, list[float]], how: Callable[[float, float], float]
) -> dict[str, list[float]]:
    return {name: [how(b, a) for b, a in zip(before[name], after[name], strict=True)] for name in before}
