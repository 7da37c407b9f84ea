"""The page of ``ebt scaling``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

from ebt.evaluation.statistics import over_seeds
from ebt.lab.plots.scaling import Line, Panel, scaling_lines, training_curves
from ebt.lab.scaling import TASKS
from ebt.lab.scaling.found import FLOOR, POWER, Found, Results
from ebt.lab.scaling.grid import Point
from ebt.lab.scaling.laws import Comparison
from ebt.lab.scaling.study import ScalingPlan
from ebt.lab.studies.models import TITLES, TRANSFORMER
from ebt.lab.studies.page import Page, Table, Verdict, cases, listed, shown

LABELS = {
    "data": "{items} to train on",
    "batch": "rows of an update",
    "depth": "layers",
    "width": "width",
    "parameters": "{weights}",
    "flops": "operations of training",
}
NAMES = {"batch": "the batch", "flops": "the number of operations"}
RIVAL = TITLES[TRANSFORMER]


def report(plan: ScalingPlan, results: Results) -> Page:
    """Create tables, verdicts and plots of all axes."""
    found = [Found(plan, grid, results) for grid in plan.grids]
    axes = listed([NAMES.get(one.grid.axis, one.grid.axis) for one in found], "or")
    judged = [verdict for one in found for verdict in _verdicts(one)]
    return Page(
        title=f"Scaling: {TASKS[plan.name]}",
        question=f"Does the loss of an EBT fall faster than that of {RIVAL} as {axes} "
        f"{'grow' if len(found) > 1 else 'grows'}? And do these runs suffice to tell?",
        setting=_setting(plan, found),
        tables=[_conclusions(found), *(table for one in found for table in (_losses(one), _laws(one)))],
        verdicts=judged,
        answer=answer(judged),
        pictures=_draw(plan, found),
        numbers={"task": plan.name, "seeds": plan.seeds, "axes": {one.grid.axis: one.numbers() for one in found}},
    )


def answer(verdicts: Sequence[Verdict]) -> str:
    """Answer from the verdicts: on which axes EBTs scale faster, and whether the runs suffice to tell."""
    enough = [verdict.met for verdict in verdicts if "these runs suffice" in verdict.name]
    found = cases(verdicts, after=" scales faster")
    split = {name: name.split(": ") for name in found}
    alone = len({kind for _, kind in split.values()}) == 1
    axes = {name: NAMES.get(axis, axis) + ("" if alone else f" by {kind}") for name, (axis, kind) in split.items()}
    claim = f"the loss of an EBT falls faster than that of {RIVAL}"
    faster = shown(claim, {axes[name]: case for name, case in found.items()}, "with", "with")
    return f"{faster} {sum(enough) or 'None'} of the {len(enough)} comparisons of slopes can be decided by these runs."


def _setting(plan: ScalingPlan, found: list[Found]) -> list[str]:
    about, first = plan.subject, found[0].grid
    each = about.per_example(first.data)
    stopped = sorted({name for one in found for name in one.stopped})
    held_out = "a part of it" if plan.validation is None else Path(plan.validation).name
    return [
        f"Trained on {Path(plan.train).name}, held out: {held_out}. A row is {each} {about.items}; losses are {about.loss}. "
        "Kinds have the same data, batches, updates, optimiser and blocks. By its own recipe an EBT starts warm: for a share "
        "of the updates it learns as its feed-forward twin, and its learning rate rises anew when it begins to think; S2 "
        "replays rows besides.",
        *(f"{one.grid.axis}: {_common(one)}" for one in found),
        f"Seeds {', '.join(map(str, range(plan.seeds)))}: of weights, batches, starts, and of the data where not all are used.",
        "The loss is measured in the last third of training (on the axis flops from an eighth on), after each number of "
        "thinking steps up to the largest trained one. Moment and number of steps, and on the axis flops the size, are chosen "
        "on a half of the held-out rows; shown is the loss on the other half.",
        "Laws: L = a x^-b by least squares of logarithms, and L = c + a x^-b with an irreducible loss c, by those of relative "
        "deviations. Intervals are 95 %, of a bootstrap that draws points and seeds anew, the same for all kinds. 'Steeper' is "
        f"the ratio of the exponents b over that of {RIVAL}, less 1.",
        "Operations are the least ones, forward and backward, as `ebt plan` counts them.",
        *([f"**Diverged and left out**: {', '.join(stopped)}."] if stopped else []),
    ]


def _common(one: Found) -> str:
    varied = {name for name in asdict(one.grid.base) if len({getattr(p, name) for p in one.grid.points}) > 1}
    base: Point = one.grid.base
    parts = {
        "layers": f"{base.layers} layers",
        "dim": f"width {base.dim}",
        "batch_size": f"{base.batch_size} rows an update",
        "size": f"{base.size:,} {one.plan.subject.items} to train on",
    }
    kept = [text for name, text in parts.items() if name not in varied]
    rate = f"learning rate {base.lr:g} (64 / width)^{base.lr_exponent:g}" + ("" if base.decay else ", constant after warm-up")
    seen = f"{base.updates:,} updates"
    if one.grid.axis == "data":
        times = "once" if base.passes == 1 else f"{base.passes} times"
        seen = f"each is seen {times}, so {', '.join(f'{point.updates:,}' for point in one.grid.points)} updates"
    values = "; ".join(one.grid.label(i) for i in range(len(one.grid.values)))
    cold = "" if base.decay else " No recipe starts warm here, so that each moment is as good as an end."
    return f"{values}. Common: {', '.join(kept)}, {seen}, heads of {base.head_dim}, {rate}.{cold} {_operations(one)}"


def _operations(one: Found) -> str:
    """Describe the operations per update relative to the baseline."""
    least = {kind: fmean(one.values(point, kind, 0)["operations"] for point in one.grid.points) for kind in one.plan.kinds}
    ratios = ", ".join(f"{TITLES[kind]} {least[kind] / least[TRANSFORMER]:.1f}" for kind in one.plan.kinds[1:])
    return f"Operations of an update over {RIVAL}'s: {ratios}."


def _conclusions(found: list[Found]) -> Table:
    rows = []
    for one in found:
        paper = one.plan.subject.paper.get(one.grid.axis)
        for kind in one.plan.kinds[1:]:
            by_form = (one.compared[form] for form in (POWER, FLOOR))
            cells = [_faster(compared.get(kind)) for compared in (*by_form, one.without_least)]
            rows.append(
                [f"{one.grid.axis}, {TITLES[kind]}", *cells, "-" if paper is None else f"{paper:+.2f}", _told(one, kind)]
            )
    head = [
        "axis, model",
        "steeper, %",
        "with a floor, %",
        "without the smallest point, %",
        "the paper's, %",
        "what can be concluded",
    ]
    note = (
        f"By how much the exponent exceeds that of {RIVAL}. The paper's column is quoted (Gladstone et al., arXiv "
        "2507.02092, figures 4, 5 and 9), not measured here: larger models, other data, fits without intervals."
    )
    return Table(f"EBT over {RIVAL}", head, rows, note)


def _faster(compared: Comparison | None) -> str:
    return "-" if compared is None or math.isnan(compared.faster.mean) else compared.faster.text(1, sign=True)


def _told(one: Found, kind: str) -> str:
    compared = one.compared[POWER].get(kind)
    if compared is None:
        return "nothing: too few points have a loss"
    if not compared.concluded:
        return f"nothing: {'; '.join(compared.doubts)}"
    return f"it scales {'faster' if compared.faster.mean > 0 else 'more slowly'}"


def _losses(one: Found) -> Table:
    kinds, rows = one.plan.kinds, []
    for i in range(len(one.grid.points)):
        cells = []
        for kind in kinds:
            runs = one.best[kind][i]
            known = [run.loss for run in runs if math.isfinite(run.loss)]
            steps = "/".join("-" if run.steps is None else str(run.steps) for run in runs)
            cells.append(
                (over_seeds(known).around(4) if known else "diverged") + ("" if kind == TRANSFORMER else f" ({steps})")
            )
        rows.append([one.grid.label(i), *cells])
    loss = one.plan.subject.loss
    note = f"{loss[:1].upper()}{loss[1:]}, mean over the seeds with Student's interval; in brackets the steps chosen."
    if one.grid.axis == "flops":
        note += " Laws are fitted to the least loss of any size at given operations, not to these."
    return Table(f"{one.grid.axis.capitalize()}: losses", [_label(one), *(TITLES[kind] for kind in kinds)], rows, note)


def _label(one: Found) -> str:
    label = "layers x width" if one.grid.axis in ("parameters", "flops") else LABELS[one.grid.axis]
    return label.format(items=one.plan.subject.items, weights=one.plan.subject.weights)


def _laws(one: Found) -> Table:
    rows = []
    for form, laws in one.laws.items():
        for kind, fit in (laws or {}).items():
            compared = one.compared[form].get(kind)
            rows.append(
                [
                    f"{TITLES[kind]}, {form}",
                    fit.exponent.text(4),
                    f"{fit.law.scale:.4g}",
                    fit.floor.text(3) if form == FLOOR else "",
                    f"{fit.law.r2:.3f}",
                    "" if compared is None else _faster(compared),
                    "" if compared is None else _crossing(compared),
                ]
            )
    head = ["model, law", "exponent b", "a", "floor c", "R²", f"steeper than {RIVAL}, %", "laws cross"]
    note = "Crossing: where the fitted laws are equal; it has an interval where nearly all draws of the bootstrap cross."
    if one.laws[FLOOR] is None:
        note += " A floor needs at least 4 points."
    return Table(f"{one.grid.axis.capitalize()}: laws", head, rows, note)


def _crossing(compared: Comparison) -> str:
    found = compared.crossing
    if found is None:
        return "nowhere near the range"
    interval = "" if found.low is None or found.high is None else f" [{found.low:.2g}, {found.high:.2g}]"
    where = {"inside": "inside the range", "below": "below the range", "above": "above the range"}[found.where]
    return f"at {found.x:.3g}{interval}, {where}"


def _verdicts(one: Found) -> list[Verdict]:
    verdicts = []
    for kind in one.plan.kinds[1:]:
        compared, axis = one.compared[POWER].get(kind), one.grid.axis
        if compared is None:
            verdicts.append(Verdict(f"{axis}: these runs suffice for {TITLES[kind]}", False, "too few points have a loss"))
            continue
        doubts = (
            "; ".join(compared.doubts)
            or "the interval excludes equal slopes, over a decade or more, on the law, without the smallest point, too"
        )
        verdicts.append(Verdict(f"{axis}: these runs suffice to compare {TITLES[kind]}", compared.concluded, doubts))
        low = compared.faster.low
        told = "no exponent" if math.isnan(compared.faster.mean) else f"{_faster(compared)} %"
        text = f"{told} (limit: the whole interval above 0); laws cross {_crossing(compared)}"
        met = compared.concluded and low is not None and low > 0
        verdicts.append(Verdict(f"{axis}: {TITLES[kind]} scales faster", met, text))
    return verdicts


def _draw(plan: ScalingPlan, found: list[Found]) -> dict[str, str]:
    loss = plan.subject.loss
    panels = [
        Panel(
            one.grid.axis,
            LABELS[one.grid.axis].format(items=plan.subject.items, weights=plan.subject.weights),
            {TITLES[kind]: _line(one, kind) for kind in plan.kinds},
        )
        for one in found
    ]
    scaling_lines(panels, plan.out / "scaling.png", loss, f"Scaling: {TASKS[plan.name]}")
    pictures = {
        "scaling.png": "Losses of all seeds on logarithmic axes, with fitted power laws (solid) and those with an irreducible "
        "loss (dotted); b is the exponent of the solid line. As the paper's figures 4, 5 and 9, for the runs of this page."
    }
    for one in found:
        if one.grid.axis == "flops":
            curves = {
                TITLES[kind]: {one.grid.label(i): one.curve(point, kind, 0) for i, point in enumerate(one.grid.points)}
                for kind in plan.kinds
            }
            training_curves(
                curves, plan.out / "training.png", ("operations of training", loss), "Losses along training, seed 0"
            )
            pictures["training.png"] = (
                "Losses along training by size (layers x width), seed 0; the laws are of their lower edge."
            )
    return pictures


def _line(one: Found, kind: str) -> Line:
    series, (power, floor) = one.series[kind], (one.laws[form] for form in (POWER, FLOOR))
    return Line(
        series.x.tolist(),
        series.losses.tolist(),
        None if power is None else power[kind].law.at,
        None if floor is None else floor[kind].law.at,
        "" if power is None else f"b = {power[kind].exponent.text(3)}",
    )
