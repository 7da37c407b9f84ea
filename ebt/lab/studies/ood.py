"""Thinking on texts out of distribution: the paper's table 3 and figures 6 and 7."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from ebt.errors import InputError
from ebt.evaluation.statistics import Estimate, over_seeds, slope_over
from ebt.files import finite
from ebt.lab.plots.studies import fitted_points, grouped_bars, step_lines
from ebt.lab.studies.measure import CHOOSING, MEASURED
from ebt.lab.studies.models import EBTS, MORE, RECIPES, TIMES, TITLES, TRANSFORMER
from ebt.lab.studies.page import Page, Table, Verdict, above, cases, shown
from ebt.lab.studies.runs import Run
from ebt.lab.studies.sets import BUILT_IN, SUFFIXES
from ebt.lab.studies.text import Results, TextPlan, identity, improvement, nats_at
from ebt.lab.studies.ways import (
    FULL,
    JUDGED,
    KINDS,
    LONGER,
    MATCH,
    SOFTENED,
    SOFTER,
    TEMPERATURES,
    Nats,
    OodPlan,
    against,
    gains,
    nats,
    paired,
    shifts,
    softer_run,
)

WITHIN = 5.0
"""Percentage of Transformer++'s perplexity in distribution."""
GAINS = {"best": "gain.png", "bold": "gain-bold.png"}
"""Plots of gain against shift."""
RIVALS = {FULL: "rival.png", SOFTER: "softer.png"}
"""Plots of EBTs and Transformer++."""
MATCHED = ((TRANSFORMER, SOFTER), *((kind, way) for kind in EBTS for way in ("matched", SOFTER)))
"""Models matched to Transformer++ at home by noise or temperature."""


def plan(args: argparse.Namespace) -> OodPlan:
    """Collect the sets: the held-out text, the built-in sets, and the user's.

    Raises:
        InputError: A set cannot be read, or its name is taken or invalid.
    """
    text = TextPlan.of(args)
    trained = [identity(source) for source in (text.train, text.validation) if source is not None]
    chosen = {MEASURED: MEASURED} | {name: name for name in BUILT_IN if identity(name) not in trained}
    named = [_named(given) for given in args.set]
    if args.sets is not None:
        named += [(_stem(path), str(path)) for path in _files(args.sets) if identity(str(path)) not in trained]
    for name, source in named:
        if name in chosen:
            raise InputError(f"There are two sets with the name {name}: choose another name with --set NAME=FILE.")
        identity(source)
        chosen[name] = source
    return OodPlan(text, chosen)


def _named(given: str) -> tuple[str, str]:
    name, equals, source = given.partition("=")
    if not (name and equals and source):
        raise InputError(f"--set {given} is not a name and a file: write --set NAME=FILE.")
    return name, source


def _files(folder: str) -> list[Path]:
    found = sorted(path for path in Path(folder).glob("*") if path.name.lower().endswith(SUFFIXES) and path.is_file())
    if not found:
        raise InputError(f"--sets {folder} has no files of type {', '.join(SUFFIXES)}: give a folder of texts.")
    return found


def _stem(path: Path) -> str:
    return path.name.split(".")[0]


def stages(plan: OodPlan) -> list[list[Run]]:
    """Return the stages: models, then the curve of each model on each set and on the choosing half."""
    seeds, text = range(plan.text.seeds), plan.text
    curves = [text.curve(kind, seed, source) for seed in seeds for kind in KINDS for source in plan.sets.values()]
    chosen = [text.curve(kind, seed, CHOOSING) for seed in seeds for kind in EBTS]
    texts, pairs = (CHOOSING, *plan.sets.values()), [(kind, seed) for seed in seeds for kind in EBTS]
    means = [text.mean_curve(*pair, source, noise) for pair in pairs for noise in text.mean_noises for source in texts]
    softer = [softer_run(text, kind, seed, source) for seed in seeds for kind in SOFTENED for source in texts]
    return [text.models(KINDS), [*chosen, *curves, *means, *softer]]


def report(plan: OodPlan, results: Results) -> Page:
    """Create tables, verdicts and plots."""
    found = nats(plan, results)
    shift = shifts(found)
    slopes = _slopes(found, shift)
    furthest = max(shift, key=lambda name: over_seeds(shift[name]).mean)
    nearer = _slopes(found, {name: values for name, values in shift.items() if name != furthest})
    pictures = _draw(plan, results, found, slopes)
    noises = ", ".join(f"{noise:g}" for noise in plan.text.mean_noises)
    many, sets = plan.text.candidates, ", ".join(name for name in plan.sets if name != MEASURED)
    judged = [
        *_verdicts(found, slopes, many),
        *(_grows(kind, nearer, many, f", without {furthest}", way) for kind in EBTS for way in JUDGED),
    ]
    return Page(
        title="Thinking out of distribution",
        question="The paper's table 3 and figures 6 and 7: one model, many texts. Does thinking gain more where text is "
        "further from the training text, and is the EBT better than Transformer++ there?",
        setting=[
            *plan.text.setting(KINDS, results),
            f"Sets: {MEASURED} (of the training text), {sets}. None of them but the first is of the training text.",
            "Gains are over the lowest trained number of steps (the paper's baseline). Ways to think longer: the last state; "
            f"that of the candidate of lowest energy among {many}, with Langevin noise of {plan.text.noise:g} for all but the "
            "first; the mean of the probabilities after each step from the lowest trained number to the largest (or to one "
            f"step above the lowest, where these are one); the same over {many} candidates (mean of {many}); and boldly. All "
            "is chosen on held-out training text, never on the set: of last states, the number of steps above the lowest; of "
            f"means, the Langevin noise of all but the first, of {noises}: the best one, or, bold, the largest one that loses "
            "nothing there against the lowest trained number of steps, or, matched, the largest one that is no more than "
            f"{MATCH:g} % worse there than Transformer++.",
            "Shift: Transformer++'s nats per token on the set less those on the held-out text. Gain: by how many per cent the "
            "perplexity falls from the lowest trained number of steps. Slopes: least squares over all (set, seed); their "
            "intervals are a bootstrap that draws sets and seeds.",
        ],
        tables=[
            _perplexities(plan, found, shift),
            _longer_trained(plan, found),
            _matched(plan, found),
            *(_thinking(plan, found, kind, many) for kind in EBTS),
            _temperatures(plan, results),
            _slope_table({"": slopes, f", without {furthest}": nearer}, many),
        ],
        verdicts=judged,
        answer=answer(judged),
        pictures=pictures,
        numbers={
            "nats": found,
            "shifts": shift,
            "slopes": _numbers(slopes),
            "slopes_without_the_furthest": _numbers(nearer),
            "scored": plan.text.contexts * plan.text.context_length,
        },
    )


def answer(verdicts: Sequence[Verdict]) -> str:
    """Answer from the verdicts on the library's own recipe: gain against shift, and Transformer++."""
    own = TITLES[EBTS[0]]
    ways = {f"the {way}": case for way, case in cases(verdicts, f"{own}, ", ": gain grows with shift").items()}
    sentences = [shown("the gain grows with the distance of the text", ways)]
    for one in verdicts:
        if one.name == f"{own}: better than Transformer++ on most other sets":
            claim = "the EBT is better than Transformer++ on most other sets"
            sentences.append(f"These runs {'show' if one.met else 'do not show'} that {claim}: it is {one.told}.")
    return " ".join(sentences)


Slopes = dict[str, dict[str, Estimate]]


def _slopes(found: Nats, shift: dict[str, list[float]]) -> Slopes:
    """Return the slope of gain against shift for each way to think, over the sets with a shift."""

    def slope(kind: str, way: str) -> Estimate:
        gain = gains(found, kind, way)
        return slope_over(np.array(list(shift.values())), np.array([gain[name] for name in shift]))

    return {way: {kind: slope(kind, way) for kind in EBTS} for way in LONGER}


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
            *(_perplexity(found[kind][FULL][name]) for kind in EBTS),
            *(over_seeds(against(found, kind, FULL)[name]).around(1, sign=True) for kind in EBTS),
        ]
        for name in plan.sets
    ]
    titles = (TITLES[kind] for kind in (TRANSFORMER, *EBTS))
    head = ["set", "shift (nats)", *titles, *(f"{TITLES[kind]}, %" for kind in EBTS)]
    note = f"EBTs: {_of(FULL, plan.text.candidates)}. Last columns: over Transformer++'s perplexity, negative is better."
    return Table("Perplexity per token", head, rows, note)


def _longer_trained(plan: OodPlan, found: Nats) -> Table:
    rows = [
        [
            name,
            _perplexity(found[MORE]["lowest"][name]),
            over_seeds(against(found, MORE, "lowest")[name]).around(1, sign=True),
            *(over_seeds(against(found, kind, FULL, MORE)[name]).around(sign=True) for kind in EBTS),
        ]
        for name in plan.sets
    ]
    head = ["set", TITLES[MORE], "over Transformer++, %", *(f"{TITLES[kind]}, %" for kind in EBTS)]
    note = (
        f"EBTs: {_of(FULL, plan.text.candidates)}, over the perplexity of the first column: negative is better. Operations are "
        "equal for S1 and S2; the own recipe has fewer."
    )
    return Table(f"Against Transformer++ with {TIMES[MORE]} times the updates", head, rows, note)


def _matched(plan: OodPlan, found: Nats) -> Table:
    """Return the table of models that are matched at home."""
    rows = [[name, *(over_seeds(against(found, *pair)[name]).around(sign=True) for pair in MATCHED)] for name in plan.sets]
    head = ["set", *(f"{TITLES[kind]}, {'noise' if way == 'matched' else 'temperature'}, %" for kind, way in MATCHED)]
    note = (
        f"Over the perplexity of Transformer++, negative is better. Noise: {_of('matched', plan.text.candidates)}. "
        "Temperature: logits (EBTs: of the mean of steps, one candidate) divided by the largest of "
        f"{', '.join(f'{t:g}' for t in TEMPERATURES)} that is as good at home."
    )
    return Table(f"Matched at home: within {MATCH:g} % of Transformer++ there", head, rows, note)


def _thinking(plan: OodPlan, found: Nats, kind: str, many: int) -> Table:
    rows = []
    for name in plan.sets:
        gained = (over_seeds(gains(found, kind, way)[name]).around(sign=True) for way in LONGER)
        rows.append([name, _perplexity(found[kind]["lowest"][name]), *gained])
    lowest = f"perplexity at the lowest trained steps ({RECIPES[kind].min_steps})"
    head = ["set", lowest, *(f"{_of(way, many)}, %" for way in LONGER)]
    return Table(f"{TITLES[kind]}: by how much perplexity falls by thinking longer", head, rows)


def _temperatures(plan: OodPlan, results: Results) -> Table:
    """Return the table of what temperatures gain on the sets and cost at home."""
    rows = []
    for name, source in plan.sets.items():
        found = [results[softer_run(plan.text, TRANSFORMER, seed, source).key].values for seed in range(plan.text.seeds)]
        gained = ([improvement(one["1.0"], one[str(softer)]) for one in found] for softer in TEMPERATURES[1:])
        rows.append([name, *(over_seeds(values).around(sign=True) for values in gained)])
    head = ["set", *(f"{softer:g}, %" for softer in TEMPERATURES[1:])]
    note = "By how much the perplexity of Transformer++ falls. What makes predictions less sure helps abroad and costs at home."
    return Table("Transformer++ at a temperature", head, rows, note)


def _of(way: str, many: int) -> str:
    return LONGER[way].format(many=many)


def _numbers(slopes: Slopes) -> dict[str, dict[str, Any]]:
    return {way: {kind: finite(slope) for kind, slope in of.items()} for way, of in slopes.items()}


def _slope_table(over: dict[str, Slopes], many: int) -> Table:
    rows = [
        [f"{TITLES[kind]}{name}", *(of[kind].text(3, sign=True) for of in slopes.values())]
        for name, slopes in over.items()
        for kind in EBTS
    ]
    head = ["model", *(_of(way, many) for way in LONGER)]
    note = "Intervals: bootstrap over sets and seeds. One set far from all others decides alone about a line of least squares."
    return Table("Slope of gain against shift (% per nat)", head, rows, note)


def _grows(kind: str, slopes: Slopes, many: int, but: str, way: str) -> Verdict:
    return above(f"{TITLES[kind]}, {_of(way, many)}: gain grows with shift{but}", "slope", slopes[way][kind], unit="% per nat")


def _verdicts(found: Nats, slopes: Slopes, many: int) -> list[Verdict]:
    return [verdict for kind in EBTS for verdict in (*_of_thinking(found, slopes, kind, many), *_of_rival(found, kind))]


def _of_thinking(found: Nats, slopes: Slopes, kind: str, many: int) -> Iterator[Verdict]:
    for way in JUDGED:
        title = f"{TITLES[kind]}, {_of(way, many)}"
        gain = {name: over_seeds(values) for name, values in gains(found, kind, way).items()}
        least = min(gain, key=lambda name: -math.inf if gain[name].low is None else gain[name].low or 0.0)
        yield above(f"{title}: helps on every set", f"least, on {least}", gain[least])
        yield _grows(kind, slopes, many, "", way)
    for one, several in (("best", "verified"), ("mean", "means")):
        adds = paired(found[kind][one], found[kind][several], improvement)
        mean = over_seeds([fmean(seed) for seed in zip(*adds.values(), strict=True)])
        name = f"{TITLES[kind]}, {_of(several, many)}: adds to {_of(one, many)}"
        yield Verdict(name, mean.mean > 0, f"mean of all sets: {mean.text(sign=True)} % (limit: the mean above 0)")


def _of_rival(found: Nats, kind: str) -> Iterator[Verdict]:
    title = TITLES[kind]
    at_home = over_seeds(against(found, kind, FULL)[MEASURED]).mean
    text = f"perplexity {at_home:+.1f} % of Transformer++'s (limit: +{WITHIN:g} %; the paper tells +6.6 % of its own)"
    yield Verdict(f"{title}: near Transformer++ in distribution", at_home <= WITHIN, text)
    yield _better(f"{title}: better than Transformer++ on most other sets", against(found, kind, FULL))
    name = f"{title}, matched at home: better than Transformer++"
    yield _better(f"{name} on most other sets", against(found, kind, "matched"))
    yield _better(f"{name} at a temperature", against(found, kind, "matched", thinks=SOFTER))
    yield _better(f"{name}, both at a temperature", against(found, kind, SOFTER, thinks=SOFTER))


def _better(name: str, gaps: dict[str, list[float]]) -> Verdict:
    """Judge the means over seeds, and state the number of sets with significant intervals."""
    found = {name: over_seeds(values) for name, values in gaps.items()}
    moved = [gap for name, gap in found.items() if name != MEASURED]
    better, surely = sum(gap.mean < 0 for gap in moved), sum(gap.high is not None and gap.high < 0 for gap in moved)
    worse = sum(gap.low is not None and gap.low > 0 for gap in moved)
    text = (
        f"better in the mean on {better} of {len(moved)} sets (with the whole interval on {surely}, worse with it on {worse}), "
        f"{found[MEASURED].text(1, sign=True)} % at home (limit: the mean, on more than half)"
    )
    return Verdict(name, 2 * better > len(moved), text)


def _draw(plan: OodPlan, results: Results, found: Nats, slopes: Slopes) -> dict[str, str]:
    out, shift, many = plan.out, shifts(found), plan.text.candidates
    order = sorted(plan.sets, key=lambda name: over_seeds(shift[name]).mean)
    for way, name in GAINS.items():
        points = {TITLES[kind]: {name: (shift[name], gains(found, kind, way)[name]) for name in order} for kind in EBTS}
        fits = {TITLES[kind]: finite(slopes[way][kind]) for kind in EBTS}
        title = f"Gain against shift: {_of(way, many)}"
        fitted_points(points, fits, out / name, ("shift (nats)", "gain by thinking (%)"), title)
    label = "nats per token over those of Transformer++: left is better"
    titles = {
        FULL: f"EBTs ({_of(FULL, many)}) against Transformer++",
        SOFTER: "All as good at home, and as soft as that allows",
    }
    for way, picture in RIVALS.items():
        bars = {TITLES[kind]: [asdict(_over_rival(found, kind, name, way)) for name in order] for kind in EBTS}
        grouped_bars(order, bars, out / picture, label, titles[way], linear_to=0.5)
    panels = {name: {TITLES[kind]: _relative(plan, results, kind, name) for kind in EBTS} for name in order}
    step_lines(panels, out / "steps.png", "nats less those of\nthe lowest trained steps", "Thinking longer, one candidate")
    return {
        "gain-bold.png": f"Gain by thinking against shift, bold mean of {many} candidates: a point for each set and "
        "seed, and the line of least squares.",
        "gain.png": "The same of the last state, one candidate.",
        "rival.png": "Nats per token over those of Transformer++, sets in order of their shift; means over the seeds, lines "
        "are 95 % intervals. The axis is logarithmic beyond half a nat.",
        "softer.png": f"The same of EBTs and Transformer++ at temperatures that keep them within {MATCH:g} % of it at home.",
        "steps.png": "Loss against thinking steps, less that after the lowest trained number; bands over the seeds.",
    }


def _over_rival(found: Nats, kind: str, name: str, way: str) -> Estimate:
    pairs = zip(found[kind][way][name], found[TRANSFORMER][SOFTER if way == SOFTER else "lowest"][name], strict=True)
    return over_seeds([own - rival for own, rival in pairs])


def _relative(plan: OodPlan, results: Results, kind: str, name: str) -> dict[int, dict[str, Any]]:
    curves = [results[plan.text.curve(kind, seed, plan.sets[name]).key] for seed in range(plan.text.seeds)]
    lowest = RECIPES[kind].min_steps
    steps = sorted({point["steps"] for point in curves[0].values["points"] if point["steps"] >= lowest})
    return {step: asdict(over_seeds([nats_at(curve, step) - nats_at(curve, lowest) for curve in curves])) for step in steps}
