"""Rules to choose among candidates: lowest energy against votes, means, likelihood, and the best in hindsight."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from ebt.evaluation.statistics import Estimate, over_seeds
from ebt.lab.plots.studies import grouped_bars
from ebt.lab.studies.measure import MEASURED, contexts_of, open_model
from ebt.lab.studies.models import EBTS, RECIPES, TITLES
from ebt.lab.studies.page import Page, Table, Verdict, above, cases, shown
from ebt.lab.studies.pool import Report
from ebt.lab.studies.runs import Json, Run
from ebt.lab.studies.text import Results, TextPlan, improvement
from ebt.models.exploration import Explored, evaluations

RULES: dict[str, str] = {
    "lowest energy": "lowest",
    "largest drop of energy": "largest_drop",
    "smallest last move": "settled",
    "majority vote": "majority",
    "highest energy": "highest",
}
"""Rules of the library by title."""
FIRST, RANDOM, LIKELY = "the first", "at random", "largest probability"
MEAN, ORACLE = "mean of the probabilities", "best in hindsight"
ORDER = (
    "lowest energy",
    "largest drop of energy",
    "smallest last move",
    "majority vote",
    LIKELY,
    MEAN,
    FIRST,
    RANDOM,
    "highest energy",
    ORACLE,
)
ENTRIES = 2**24
"""Maximum number of probabilities in memory at a time."""


def plan(args: argparse.Namespace) -> TextPlan:
    """Create the plan, with more candidates by default than in other studies."""
    plan = TextPlan.of(args)
    return plan if args.candidates or args.quick else replace(plan, candidates=8)


def stages(plan: TextPlan) -> list[list[Run]]:
    """Return the stages: models, then the measurement of the rules."""
    return [plan.models(EBTS), [_run(plan, kind, seed) for seed in range(plan.seeds) for kind in EBTS]]


def _run(plan: TextPlan, kind: str, seed: int) -> Run:
    how = {"steps": _steps(plan, kind), "candidates": plan.candidates, "candidate_noise": plan.noise}
    return plan.measurement(measure, kind, seed, MEASURED, **how)


def _steps(plan: TextPlan, kind: str) -> list[int]:
    """Return the lowest and the largest trained number of steps, and the largest that is tried."""
    return sorted({RECIPES[kind].min_steps, RECIPES[kind].own_steps, max(plan.steps)})


@torch.no_grad()
def measure(settings: Json, places: Json, report: Report) -> dict[str, Any]:
    """Measure nats per token and accuracy of each rule after each number of steps."""
    model, batches = open_model(settings, places), contexts_of(settings, places)
    many, generator, sums, scored = settings["candidates"], torch.Generator().manual_seed(0), Sums(), 0
    rows = max(1, ENTRIES // (many * settings["model"]["text"]["context_length"] * model.config.vocab_size))
    for batch in batches:
        for inputs, targets in zip(batch["input_ids"].split(rows), batch["targets"].split(rows), strict=True):
            record = model.explore(inputs, settings["steps"], (many,))
            for steps in settings["steps"]:
                add_rules(sums, steps, record, targets, many, generator)
            scored += targets.numel()
        report(scored, settings["contexts"] * targets.shape[1], "")
    found: dict[str, Any] = {}
    for steps, rule, name in sums:
        found.setdefault(str(steps), {}).setdefault(rule, {})[name] = sums[steps, rule, name] / scored
    return found


class Sums(dict[tuple[int, str, str], float]):
    """Sums over tokens, by number of steps, rule and quantity."""

    def add(self, steps: int, rule: str, **values: Tensor) -> None:
        """Add values of tokens."""
        for name, value in values.items():
            self[steps, rule, name] = self.get((steps, rule, name), 0.0) + value.double().sum().item()


def add_rules(sums: Sums, steps: int, record: Explored, targets: Tensor, many: int, generator: torch.Generator) -> None:
    geometry: Any = record.thought.geometry
    state = record.thought.states[steps - 1].unflatten(0, (many, -1))
    log_p = geometry.logits(state).float().log_softmax(-1)
    nats = -log_p.gather(-1, targets.expand(many, -1, -1).unsqueeze(-1)).squeeze(-1)
    sure, answers = log_p.max(-1)
    winners = {name: record.at(steps, many, rule).winner for name, rule in RULES.items()}
    winners |= {
        FIRST: torch.zeros_like(targets),
        RANDOM: torch.randint(many, targets.shape, generator=generator),
        LIKELY: sure.argmax(0),
        ORACLE: nats.argmin(0),
    }
    for name, winner in winners.items():
        assert winner is not None
        won = winner.unsqueeze(0)
        sums.add(steps, name, nats=nats.gather(0, won), right=answers.gather(0, won).squeeze(0) == targets)
    mean = log_p.logsumexp(0) - math.log(many)
    surprise = -mean.gather(-1, targets.unsqueeze(-1))
    sums.add(steps, MEAN, nats=surprise, right=mean.argmax(-1) == targets)
    sums.add(steps, "candidates", disagree=(answers != answers[0]).any(0), spread=nats.amax(0) - nats.amin(0))


def report(plan: TextPlan, results: Results) -> Page:
    """Create tables, verdicts and a plot."""
    found = {kind: [results[_run(plan, kind, seed).key].values for seed in range(plan.seeds)] for kind in EBTS}
    measured = [one[steps] for kind in EBTS for one in found[kind] for steps in one]
    shown = [rule for rule in ORDER if rule not in (FIRST, RANDOM) and all(rule in at for at in measured)]
    own = {kind: str(RECIPES[kind].own_steps) for kind in EBTS}
    bars = {TITLES[kind]: [asdict(_gain(found[kind], own[kind], rule)) for rule in shown] for kind in EBTS}
    label = "improvement of perplexity over one candidate (%)"
    title = f"Which of {plan.candidates} candidates, after the largest trained number of steps"
    grouped_bars(shown, bars, plan.out / "rules.png", label, title)
    judged = [verdict for kind in EBTS for verdict in _verdicts(found[kind], kind, own[kind])]
    return Page(
        title="Which verifier?",
        question=f"An EBT thinks {plan.candidates} candidates for each token and keeps that of lowest energy. What does the "
        "energy add to what can be had without it: a vote, a mean, the candidates' own probabilities? And how much could "
        "be gained?",
        setting=[
            *plan.setting(EBTS, results),
            f"{plan.candidates} candidates from random starts, with Langevin noise of {plan.noise:g} for all but the first. "
            "All rules choose among the same candidates, for each token on its own. Verdicts are on the largest trained number "
            "of steps; what rules do at others, the tables tell.",
            "Majority vote: the most frequent of the candidates' top tokens, among its candidates the one of lowest energy. "
            "Smallest last move: the candidate whose probabilities the last step changed least. Largest probability: the "
            "candidate that is surest of its top token. Best in hindsight: the one of least loss, which nobody can know "
            "beforehand: it bounds what choosing can give.",
        ],
        tables=[_table(found, kind, steps, plan) for kind in EBTS for steps in _steps(plan, kind)],
        verdicts=judged,
        answer=answer(judged),
        front=_table(found, EBTS[0], int(own[EBTS[0]]), plan),
        pictures={"rules.png": f"{title}: {label}, means over the seeds with 95 % intervals."},
        numbers={"measured": found},
    )


def answer(verdicts: Sequence[Verdict]) -> str:
    """Answer from the verdicts: lowest energy against the first candidate and a vote."""
    found = [cases(verdicts, after=f": lowest energy {what}") for what in ("helps", "beats a vote")]
    first, vote = ({name.replace(", ", " in "): case for name, case in each.items()} for each in found)
    better = shown("the candidate of lowest energy is better than the first one", first)
    return f"{better} {shown('it is better than a vote', vote)}"


Measured = list[Mapping[str, Any]]


def _gain(found: Measured, steps: str, rule: str, over: str = FIRST) -> Estimate:
    return over_seeds([improvement(one[steps][over]["nats"], one[steps][rule]["nats"]) for one in found])


def _table(found: Mapping[str, Measured], kind: str, steps: int, plan: TextPlan) -> Table:
    at, rows = str(steps), []
    for rule in ORDER:
        if not all(rule in one[at] for one in found[kind]):  # runs of before this rule
            continue
        nats = over_seeds([one[at][rule]["nats"] for one in found[kind]])
        right = over_seeds([100 * one[at][rule]["right"] for one in found[kind]])
        gain = "" if rule == FIRST else _gain(found[kind], at, rule).around(sign=True)
        rows.append([rule, nats.around(4), gain, right.around()])
    disagree = over_seeds([100 * one[at]["candidates"]["disagree"] for one in found[kind]]).mean
    spread = over_seeds([one[at]["candidates"]["spread"] for one in found[kind]]).mean
    forward, backward = evaluations(steps, plan.candidates)
    note = (
        f"The candidates' top tokens differ for {disagree:.1f} % of the tokens, their losses by {spread:.3f} nats on average. "
        f"{forward:g} forward and {backward:g} backward passes a token, {steps} and {steps} for the first alone."
    )
    trained = RECIPES[kind]
    name = {trained.min_steps: "lowest trained", trained.own_steps: "largest trained"}.get(steps, "beyond the trained ones")
    title = f"{TITLES[kind]}, {steps} step{'s' if steps > 1 else ''} ({name})"
    return Table(title, ["rule", "nats", "perplexity over the first, %", "right tokens, %"], rows, note)


def _verdicts(found: Measured, kind: str, steps: str) -> list[Verdict]:
    title, lowest = f"{TITLES[kind]}, {steps} steps", "lowest energy"
    return [
        above(f"{title}: {lowest} helps", "improvement over the first candidate", _gain(found, steps, lowest)),
        above(f"{title}: {lowest} beats a vote", "improvement over it", _gain(found, steps, lowest, "majority vote")),
        above(f"{title}: {lowest} beats the largest probability", "improvement over it", _gain(found, steps, lowest, LIKELY)),
    ]
