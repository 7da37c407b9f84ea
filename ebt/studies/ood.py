"""One model, many texts: the paper's table 3 and figures 6 and 7."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ebt.errors import InputError
from ebt.evaluation import to_json
from ebt.evaluation.statistics import Estimate, over_seeds, slope_over
from ebt.plots.studies import fitted_points, grouped_bars, step_lines
from ebt.studies.measure import CHOOSING, MEASURED
from ebt.studies.models import EBTS, MORE, RECIPES, TITLES, TRANSFORMER
from ebt.studies.page import Page, Table, Verdict, above
from ebt.studies.runs import Run
from ebt.studies.sets import BUILT_IN, SUFFIXES
from ebt.studies.text import Results, TextPlan, identity, improvement, longer, nats_at
from ebt.studies.verifiers import MEAN, measure

KINDS = (TRANSFORMER, MORE, *EBTS)
WITHIN = 5.0
"""Per cent of Transformer++'s perplexity, in distribution."""
WAYS = ("lowest", "own", "best", "verified", "averaged")
"""An EBT's steps: the lowest trained number, the largest trained, the best above the lowest, that with candidates of which the
lowest energy wins, and the mean of candidates' probabilities."""
SHOWN = ("lowest", "best", "verified", "averaged")
AVERAGED_NOISE = 1.0
"""Langevin noise of candidates whose mean is taken, which must differ to be worth it."""


@dataclass(frozen=True)
class OodPlan:
    """A study of text, and the sets by their names."""

    text: TextPlan
    sets: dict[str, str]

    @property
    def out(self) -> Path:
        """Where the pictures go."""
        return self.text.out


def plan(args: argparse.Namespace) -> OodPlan:
    """Collect the sets: what is held out of the training text, the built-in ones, and those that the user names.

    Raises:
        InputError: a set that cannot be read, a name that is taken, or one that is no name.
    """
    text = TextPlan.of(args)
    trained = [identity(source) for source in (text.train, text.validation) if source is not None]
    chosen = {MEASURED: MEASURED} | {name: name for name in BUILT_IN if identity(name) not in trained}
    named = [_named(given) for given in args.set]
    if args.sets is not None:
        named += [(_stem(path), str(path)) for path in _files(args.sets) if identity(str(path)) not in trained]
    for name, source in named:
        if name in chosen:
            raise InputError(f"There are two sets with the name {name}: choose another with --set NAME=FILE.")
        identity(source)
        chosen[name] = source
    return OodPlan(text, chosen)


def _named(given: str) -> tuple[str, str]:
    name, equals, source = given.partition("=")
    if not (name and equals and source):
        raise InputError(f"--set {given} is no name and file: write --set NAME=FILE.")
    return name, source


def _files(folder: str) -> list[Path]:
    found = sorted(path for path in Path(folder).glob("*") if path.name.lower().endswith(SUFFIXES) and path.is_file())
    if not found:
        raise InputError(f"--sets {folder} holds none of {', '.join(SUFFIXES)}: name a folder of texts.")
    return found


def _stem(path: Path) -> str:
    return path.name.split(".")[0]


def stages(plan: OodPlan) -> list[list[Run]]:
    """Models, then the curve of each on each set, and on the half of the held-out text where steps are chosen."""
    seeds, text = range(plan.text.seeds), plan.text
    curves = [text.curve(kind, seed, source) for seed in seeds for kind in KINDS for source in plan.sets.values()]
    chosen = [text.curve(kind, seed, CHOOSING) for seed in seeds for kind in EBTS]
    texts = (CHOOSING, *plan.sets.values())
    means = [_averages(text, kind, seed, source) for seed in seeds for kind in EBTS for source in texts]
    return [text.models(KINDS), [*chosen, *curves, *means]]


def _averages(text: TextPlan, kind: str, seed: int, source: str) -> Run:
    """Means of candidates after the lowest and the largest trained number of steps."""
    steps = sorted({RECIPES[kind].min_steps, RECIPES[kind].own_steps})
    how = {"steps": steps, "candidates": text.candidates, "candidate_noise": AVERAGED_NOISE}
    run = text.measurement(measure, kind, seed, source, **how)
    return replace(run, name=f"{run.name} mean")


def nats(plan: OodPlan, results: Results) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Nats per token of each model, for each way to think, on each set, by seed."""
    text, found = plan.text, dict[str, dict[str, dict[str, list[float]]]]()
    for kind in KINDS:
        found[kind] = {way: {name: [] for name in plan.sets} for way in (WAYS if kind in EBTS else WAYS[:1])}
        for seed in range(text.seeds):
            ways = _ways(plan, kind, seed, results)
            for name, source in plan.sets.items():
                curve = results[text.curve(kind, seed, source).key]
                for way, (steps, candidates) in ways.items():
                    found[kind][way][name].append(nats_at(curve, steps, candidates))
                if kind in EBTS:
                    found[kind]["averaged"][name].append(_averaged(text, kind, seed, source, results))
    return found


def _averaged(text: TextPlan, kind: str, seed: int, source: str, results: Results) -> float:
    """Nats of the mean of the candidates, after the number of steps that the choosing half prefers."""
    choosing, measured = (results[_averages(text, kind, seed, name).key].values for name in (CHOOSING, source))
    best = min(choosing, key=lambda steps: float(choosing[steps][MEAN]["nats"]))
    return float(measured[best][MEAN]["nats"])


def _ways(plan: OodPlan, kind: str, seed: int, results: Results) -> dict[str, tuple[int, int]]:
    """Steps and candidates of each way to think."""
    if kind not in EBTS:
        return {"lowest": (1, 1)}
    choosing, many = results[plan.text.curve(kind, seed, CHOOSING).key], plan.text.candidates
    recipe = RECIPES[kind]
    best, verified = longer(kind, choosing), longer(kind, choosing, many)
    return {"lowest": (recipe.min_steps, 1), "own": (recipe.own_steps, 1), "best": (best, 1), "verified": (verified, many)}


Nats = dict[str, dict[str, dict[str, list[float]]]]


def shifts(found: Nats) -> dict[str, list[float]]:
    """How much harder a set is for Transformer++ than the held-out text, in nats per token, by seed."""
    rival = found[TRANSFORMER]["lowest"]
    return {name: [value - own for value, own in zip(values, rival[MEASURED], strict=True)] for name, values in rival.items()}


def gains(found: Nats, kind: str, way: str) -> dict[str, list[float]]:
    """Improvement of perplexity over the lowest trained number of steps in per cent, by set and seed."""
    return _paired(found[kind]["lowest"], found[kind][way], improvement)


def against(found: Nats, kind: str, way: str, rival: str = TRANSFORMER) -> dict[str, list[float]]:
    """Perplexity over that of a Transformer++, in per cent of it: negative is better."""
    return _paired(found[rival]["lowest"], found[kind][way], lambda theirs, own: -improvement(theirs, own))


def _paired(
    before: dict[str, list[float]], after: dict[str, list[float]], how: Callable[[float, float], float]
) -> dict[str, list[float]]:
    return {name: [how(b, a) for b, a in zip(before[name], after[name], strict=True)] for name in before}


def report(plan: OodPlan, results: Results) -> Page:
    """Tables, verdicts and pictures."""
    found = nats(plan, results)
    shift = shifts(found)
    slopes, verified, averaged = (
        {kind: _slope(shift, gains(found, kind, way)) for kind in EBTS} for way in ("best", "verified", "averaged")
    )
    pictures = _draw(plan, results, found, slopes)
    many, sets = plan.text.candidates, ", ".join(name for name in plan.sets if name != MEASURED)
    return Page(
        title="Thinking out of distribution",
        question="The paper's table 3 and figures 6 and 7: one model, many texts. Does thinking gain more where text is "
        "further from the training text, and is the EBT better than Transformer++ there?",
        setting=[
            *plan.text.setting(KINDS, results),
            f"Sets: {MEASURED} (of the training text), {sets}. None of them but the first is of the training text.",
            "Ways to think: the lowest trained number of steps (the paper's baseline), the own (largest trained) one, the best "
            "above the lowest, chosen on held-out training text and never on the set, the same with self-verification "
            f"among {many} candidates by energy, and the mean of the probabilities of {many} candidates with Langevin noise of "
            f"{AVERAGED_NOISE:g} after the lowest or the largest trained number of steps, chosen likewise.",
            "Shift: Transformer++'s nats per token on the set less those on the held-out text. Gain: by how many per cent the "
            "perplexity falls from the lowest trained number of steps. Slopes: least squares over all (set, seed); their "
            "intervals are a bootstrap that draws sets and seeds.",
        ],
        tables=[
            _perplexities(plan, found, shift),
            _equal_compute(plan, found),
            *(_thinking(plan, found, kind, many) for kind in EBTS),
            _slopes(slopes, verified, averaged),
        ],
        verdicts=_verdicts(found, slopes, averaged),
        pictures=pictures,
        numbers={
            "nats": found,
            "shifts": shift,
            "slopes": {kind: to_json(slopes[kind]) for kind in EBTS},
            "slopes_verified": {kind: to_json(verified[kind]) for kind in EBTS},
            "slopes_averaged": {kind: to_json(averaged[kind]) for kind in EBTS},
            "scored": plan.text.contexts * plan.text.context_length,
        },
    )


def _slope(shift: dict[str, list[float]], gain: dict[str, list[float]]) -> Estimate:
    return slope_over(np.array([shift[name] for name in gain]), np.array(list(gain.values())))


def _perplexity(values: list[float]) -> str:
    found = over_seeds([math.exp(value) for value in values])
    return _short(found.mean) + ("" if found.high is None else f" ± {_short(found.high - found.mean)}")


def _short(value: float) -> str:
    return f"{value:.4g}" if value >= 1000 else f"{value:.2f}"


def _perplexities(plan: OodPlan, found: Nats, shift: dict[str, list[float]]) -> Table:
    rows = [
        [
            name,
            f"{over_seeds(shift[name]).mean:+.2f}",
            _perplexity(found[TRANSFORMER]["lowest"][name]),
            *(_perplexity(found[kind]["best"][name]) for kind in EBTS),
            *(f"{over_seeds(against(found, kind, 'best')[name]).mean:+.1f}" for kind in EBTS),
        ]
        for name in plan.sets
    ]
    titles = (TITLES[kind] for kind in (TRANSFORMER, *EBTS))
    head = ["set", "shift (nats)", *titles, *(f"{TITLES[kind]}, %" for kind in EBTS)]
    note = "EBTs at their best number of steps. Last columns: over Transformer++'s perplexity, negative is better."
    return Table("Perplexity per token", head, rows, note)


def _equal_compute(plan: OodPlan, found: Nats) -> Table:
    rows = [
        [
            name,
            _perplexity(found[MORE]["lowest"][name]),
            f"{over_seeds(against(found, MORE, 'lowest')[name]).mean:+.1f}",
            *(over_seeds(against(found, kind, "best", MORE)[name]).around(sign=True) for kind in EBTS),
        ]
        for name in plan.sets
    ]
    head = ["set", TITLES[MORE], "over Transformer++, %", *(f"{TITLES[kind]}, %" for kind in EBTS)]
    note = "EBTs at their best number of steps, over the perplexity of the first column: negative is better."
    return Table("At equal operations", head, rows, note)


def _thinking(plan: OodPlan, found: Nats, kind: str, many: int) -> Table:
    rows = []
    for name in plan.sets:
        gained = (over_seeds(gains(found, kind, way)[name]).around(sign=True) for way in SHOWN[1:])
        perplexities = [_short(over_seeds([math.exp(v) for v in found[kind][way][name]]).mean) for way in SHOWN]
        rows.append([name, *perplexities, *gained])
    ways = ["best", f"best of {many}", f"mean of {many}"]
    head = ["set", "lowest", *ways, *(f"gain, {way}, %" for way in ways)]
    return Table(f"{TITLES[kind]}: perplexity by steps, and gain by thinking", head, rows)


def _slopes(*ways: dict[str, Estimate]) -> Table:
    rows = [[TITLES[kind], *(slopes[kind].text(3, sign=True) for slopes in ways)] for kind in EBTS]
    head = ["model", "thinking longer", "and self-verification", "mean of candidates"]
    return Table("Slope of gain against shift (% per nat)", head, rows, "Intervals: bootstrap over sets and seeds.")


def _verdicts(found: Nats, slopes: dict[str, Estimate], averaged: dict[str, Estimate]) -> list[Verdict]:
    verdicts = []
    for kind in EBTS:
        title = TITLES[kind]
        verdicts.append(above(f"{title}: gain grows with shift", "slope", slopes[kind], unit="% per nat"))
        of_mean = f"{title}: gain of the candidates' mean grows with shift"
        verdicts.append(above(of_mean, "slope", averaged[kind], unit="% per nat"))
        gain = {name: over_seeds(values) for name, values in gains(found, kind, "best").items()}
        least = min(gain, key=lambda name: -math.inf if gain[name].low is None else gain[name].low or 0.0)
        verdicts.append(above(f"{title}: thinking longer helps on every set", f"least, on {least}", gain[least]))
        gap = {name: over_seeds(values).mean for name, values in against(found, kind, "best").items()}
        verdicts.append(
            Verdict(
                f"{title}: near Transformer++ in distribution",
                gap[MEASURED] <= WITHIN,
                f"perplexity {gap[MEASURED]:+.1f} % of Transformer++'s (limit: +{WITHIN:g} %)",
            )
        )
        moved = [name for name in gap if name != MEASURED]
        better = sum(gap[name] < 0 for name in moved)
        text = f"better on {better} of {len(moved)} sets (limit: more than half)"
        verdicts.append(Verdict(f"{title}: better than Transformer++ on most other sets", 2 * better > len(moved), text))
    return verdicts


def _draw(plan: OodPlan, results: Results, found: Nats, slopes: dict[str, Estimate]) -> dict[str, str]:
    out, shift = plan.out, shifts(found)
    order = sorted(plan.sets, key=lambda name: over_seeds(shift[name]).mean)
    points = {TITLES[kind]: {name: (shift[name], gains(found, kind, "best")[name]) for name in order} for kind in EBTS}
    fits = {TITLES[kind]: to_json(slopes[kind]) for kind in EBTS}
    fitted_points(points, fits, out / "gain.png", ("shift (nats)", "gain by thinking (%)"), "Gain against shift")
    bars = {TITLES[kind]: [asdict(_over_rival(found, kind, name)) for name in order] for kind in EBTS}
    label = "nats per token over those of Transformer++: left is better"
    title = "EBTs at their best number of steps against Transformer++"
    grouped_bars(order, bars, out / "rival.png", label, title, linear_to=0.5)
    panels = {name: {TITLES[kind]: _relative(plan, results, kind, name) for kind in EBTS} for name in order}
    step_lines(panels, out / "steps.png", "nats less those of\nthe lowest trained steps", "Thinking longer, one candidate")
    return {
        "gain.png": "Gain by thinking against shift: a point for each set and seed, and the line of least squares.",
        "rival.png": "Nats per token over those of Transformer++, sets in order of their shift; means over the seeds, lines "
        "are 95 % intervals. The axis is logarithmic beyond half a nat.",
        "steps.png": "Loss against thinking steps, less that after the lowest trained number; bands over the seeds.",
    }


def _over_rival(found: Nats, kind: str, name: str) -> Estimate:
    pairs = zip(found[kind]["best"][name], found[TRANSFORMER]["lowest"][name], strict=True)
    return over_seeds([own - rival for own, rival in pairs])


def _relative(plan: OodPlan, results: Results, kind: str, name: str) -> dict[int, dict[str, Any]]:
    curves = [results[plan.text.curve(kind, seed, plan.sets[name]).key] for seed in range(plan.text.seeds)]
    lowest = RECIPES[kind].min_steps
    steps = sorted({point["steps"] for point in curves[0].values["points"] if point["steps"] >= lowest})
    return {step: asdict(over_seeds([nats_at(curve, step) - nats_at(curve, lowest) for curve in curves])) for step in steps}
