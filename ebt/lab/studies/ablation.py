"""The paper's table 2: the S2 recipe, and S2 without each of its parts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from ebt.evaluation.statistics import Estimate, over_seeds
from ebt.lab.plots.studies import grouped_bars, step_lines
from ebt.lab.studies.measure import CHOOSING, MEASURED
from ebt.lab.studies.models import RECIPES, TITLES
from ebt.lab.studies.page import Page, Table, Verdict, above, cases, shown
from ebt.lab.studies.runs import Run
from ebt.lab.studies.text import MEAN_NOISES, Results, TextPlan, improvement, last_of_mean, longer, nats_at

KINDS = ("ebt-s2", "s2-fixed-step-size", "s2-fixed-steps", "s2-no-noise", "s2-no-replay")
LONGER, VERIFIED, ADDED = "thinking longer", "with self-verification", "self-verification adds"
AVERAGED, AVERAGED_MANY = "mean of steps", "mean of steps and candidates"
OVER = (LONGER, VERIFIED, AVERAGED, AVERAGED_MANY)
"""Ways to think longer."""
Gains = dict[str, list[dict[str, float]]]
"""By kind and seed."""
SHOWN = (LONGER, VERIFIED, ADDED, AVERAGED, AVERAGED_MANY)


def plan(args: argparse.Namespace) -> TextPlan:
    """Create the plan from the common options of text studies."""
    return TextPlan.of(args)


def stages(plan: TextPlan) -> list[list[Run]]:
    """Return the stages: models, then their curves on both halves of the held-out text."""
    pairs = [(kind, seed) for seed in range(plan.seeds) for kind in KINDS]
    curves = [plan.curve(*pair, half) for pair in pairs for half in (CHOOSING, MEASURED)]
    return [plan.models(KINDS), [*curves, *(plan.mean_curve(*pair, MEASURED) for pair in pairs)]]


def gains(plan: TextPlan, kind: str, seed: int, results: Results) -> dict[str, float]:
    """Return the improvements of the perplexity in per cent, and the losses (nats) and steps they are based on."""
    recipe, found = RECIPES[kind], dict[str, float]()
    measured = results[plan.curve(kind, seed, MEASURED).key]
    lowest = nats_at(measured, recipe.min_steps)
    trained = fmean(nats_at(measured, steps) for steps in range(recipe.min_steps, recipe.max_steps + 1))
    choosing, mean = (results[run.key] for run in (plan.curve(kind, seed, CHOOSING), plan.mean_curve(kind, seed, MEASURED)))
    for many, chosen, averaged in ((1, LONGER, AVERAGED), (plan.candidates, VERIFIED, AVERAGED_MANY)):
        for name, curve, steps in ((chosen, measured, longer(kind, choosing, many)), (averaged, mean, last_of_mean(kind))):
            nats = nats_at(curve, steps, many)
            found |= {name: improvement(lowest, nats), trained_mean(name): improvement(trained, nats), steps_of(name): steps}
            found[nats_of(name)] = nats
    found[ADDED] = improvement(found[nats_of(LONGER)], found[nats_of(VERIFIED)])
    return {"nats": lowest, **found}


def trained_mean(way: str) -> str:
    """Return the name of a gain over the mean loss of the trained numbers of steps."""
    return f"{way}, over trained mean"


def steps_of(way: str) -> str:
    """Return the name of the chosen number of steps."""
    return f"steps of {way}"


def nats_of(way: str) -> str:
    """Return the name of the loss."""
    return f"nats of {way}"


def report(plan: TextPlan, results: Results) -> Page:
    """Create tables, verdicts and plots."""
    found = {kind: [gains(plan, kind, seed, results) for seed in range(plan.seeds)] for kind in KINDS}
    means = {kind: {name: over_seeds([one[name] for one in many]) for name in many[0]} for kind, many in found.items()}
    shown = {name: [asdict(means[kind][name]) for kind in KINDS] for name in OVER}
    label = "improvement of perplexity over the lowest trained number of steps (%)"
    grouped_bars([TITLES[k] for k in KINDS], shown, plan.out / "gains.png", label, "What each part of the S2 recipe does")
    panels = {"held-out text": {TITLES[kind]: _curve(plan, kind, results) for kind in KINDS}}
    step_lines(panels, plan.out / "steps.png", "nats per token", "Thinking longer, one candidate")
    judged = verdicts(means, found)
    return Page(
        title="What each part of the S2 recipe does",
        question="The paper's table 2: S2 in full, and without one of its parts each. How much does the perplexity fall when a "
        "model thinks longer than the lowest number of steps it was trained with, and when it chooses among candidates by "
        "their energy?",
        setting=[
            *plan.setting(KINDS, results),
            "As in the paper, the baseline of thinking is the lowest trained number of steps. The last table has a harder "
            "baseline: the mean loss over the trained numbers.",
            "Thinking longer is the number of steps above the lowest trained one that was best on the choosing half; with "
            f"self-verification it is chosen again. Self-verification: {plan.candidates} candidates, with Langevin noise of "
            f"{plan.noise:g} for all but the first, the one of lowest energy for each token.",
            "Mean of steps: of the probabilities after each step from the lowest trained number on; and candidates: over "
            f"{plan.candidates} of them, too, with Langevin noise of {MEAN_NOISES[0]:g} for all but the first. They end at the "
            "largest trained number of steps, or at one above the lowest where these are one.",
        ],
        tables=[_lowest(plan, means, found), parts_table(found), _trained(means)],
        verdicts=judged,
        answer=answer(judged),
        pictures={
            "gains.png": f"{label.capitalize()}: means over {plan.seeds} seeds, lines are 95 % intervals.",
            "steps.png": "Loss against thinking steps, one candidate; bands are 95 % intervals over the seeds.",
        },
        numbers={"seeds": plan.seeds, "gains": found},
    )


def answer(verdicts: Sequence[Verdict]) -> str:
    """Answer from the verdicts: what each part adds, and what thinking longer and self-verification gain."""
    parts = cases(verdicts, "thinking longer gains more with all parts than by S2, ")
    gains = {"thinking longer": cases(verdicts, "thinking longer helps"), "self-verification on top": cases(verdicts, ADDED)}
    found = {what: case for what, one in gains.items() for case in one.values()}
    claim = "thinking longer gains more with S2 in full than"
    return f"{shown(claim, parts, 'with', 'with')} {shown('the perplexity falls', found, 'by')}"


def _curve(plan: TextPlan, kind: str, results: Results) -> dict[int, dict[str, Any]]:
    curves = [results[plan.curve(kind, seed, MEASURED).key] for seed in range(plan.seeds)]
    steps = sorted({point["steps"] for point in curves[0].values["points"]})
    return {step: asdict(over_seeds([nats_at(curve, step) for curve in curves])) for step in steps}


def _lowest(plan: TextPlan, means: dict[str, dict[str, Estimate]], found: Gains) -> Table:
    rows = [
        [
            TITLES[kind],
            str(RECIPES[kind].min_steps),
            mean["nats"].around(4),
            *(mean[name].around(sign=True) for name in SHOWN),
            ", ".join("/".join(f"{one[steps_of(way)]:g}" for way in OVER) for one in found[kind]),
        ]
        for kind, mean in means.items()
    ]
    head = ["model", "lowest steps", "nats there", *(f"{way} %" for way in SHOWN), "steps, by seed"]
    return Table(
        "Improvement of perplexity over the lowest trained number of steps",
        head,
        rows,
        f"Positive is better. Steps: {' / '.join(OVER)}.",
    )


def _trained(means: dict[str, dict[str, Estimate]]) -> Table:
    rows = [[TITLES[k], *(mean[trained_mean(way)].around(sign=True) for way in OVER)] for k, mean in means.items()]
    return Table("The same over the mean of the trained numbers", ["model", *(f"{way} %" for way in OVER)], rows)


def _without(found: Gains, kind: str, way: str) -> Estimate:
    """Return the gain of full S2 minus that of S2 without a part, paired by seed (same batches)."""
    return over_seeds([full[way] - one[way] for full, one in zip(found["ebt-s2"], found[kind], strict=True)])


def parts_table(found: Gains) -> Table:
    """Return the table of what each part contributes."""
    rows = [
        [
            TITLES[kind],
            *(_without(found, kind, way).around(sign=True) for way in SHOWN),
            _at_best(found, kind).around(sign=True),
        ]
        for kind in KINDS[1:]
    ]
    head = ["S2 without a part", *(f"{way}, points" for way in SHOWN), "perplexity at its best, %"]
    note = (
        "Improvements of full S2 less those without the part, paired by seed, in points of per cent: positive where the part "
        "helps thinking. Last: by how much the perplexity of full S2 is below that without the part, each thinking in its best "
        "way (in hindsight): negative where the part costs more than it brings."
    )
    return Table("What each part adds to thinking", head, rows, note)


def _at_best(found: Gains, kind: str) -> Estimate:
    """Compare full S2 with S2 without a part, each with its best way to think."""
    pairs = zip(found["ebt-s2"], found[kind], strict=True)
    return over_seeds([improvement(*(min(one[nats_of(way)] for way in OVER) for one in (less, full))) for full, less in pairs])


def verdicts(means: dict[str, dict[str, Estimate]], found: Gains) -> list[Verdict]:
    """Return the verdicts on thinking longer and on each part."""
    full = means["ebt-s2"]
    return [
        *(above(f"{way} helps", "full S2 over its lowest trained number of steps", full[way]) for way in OVER),
        Verdict(
            "self-verification adds to it",
            full[ADDED].mean > 0,
            f"full S2, on top of thinking longer: {full[ADDED].text(sign=True)} % (limit: the mean above 0)",
        ),
        *(
            above(f"thinking longer gains more with all parts than by {TITLES[kind]}", "paired by seed", gap, unit="points")
            for kind in KINDS[1:]
            for gap in [_without(found, kind, LONGER)]
        ),
    ]
