"""Sudoku with fewer givens than in training: an EBT against the same blocks without an energy, with equal training time."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ebt.evaluation.statistics import Estimate, over_seeds, spread
from ebt.lab.plots.studies import effort_lines
from ebt.lab.studies.boards import measure_boards, train_board_model
from ebt.lab.studies.page import Page, Table, Verdict, shown
from ebt.lab.studies.runs import Json, Result, Run
from ebt.lab.studies.sets import identity
from ebt.thinking import Recipe
from ebt.training.optimisation import Optimisation

KINDS = {
    "ebt": "EBT",
    "feed_forward": "feed-forward",
    "looped_prediction": "looped, prediction",
    "looped_hidden": "looped, hidden",
    "recursive": "recursive",
}
TWIN, RIVAL = "feed_forward", "looped_prediction"
RECURSIVE = "recursive"
LOOPED = (RIVAL, "looped_hidden", RECURSIVE)
INNER = 2
"""Updates of the recursive model's latent state per update of its answer. It has half as many layers as the others."""
SPOKEN = {
    "looped, prediction at": "the loop over predictions at",
    "looped, hidden at": "the loop over hidden states at",
    "recursive at": "the recursive model at",
}
"""How the answer names rivals."""
OPTIMISATION = Optimisation(lr=3e-3, betas=(0.9, 0.98), min_lr_ratio=0.05)
LOOPS = Recipe(min_steps=2, max_steps=4)
RECIPE = Recipe(1, 3, gradients="truncated", loss="last", replay_size=512, replay_fraction=0.5, warm_start=0.4)
"""Recipe of the EBT, at half the cost of gradients through all steps. Replay continues descents to many steps."""
HEAD = {"head": "bilinear", "head_init": "unit"}
"""Energy head that a warm start needs."""
SCALES, NOISES = (0.35, 0.6, 1.0), (0.3, 1.0)
"""Factors on the learned step size, and Langevin noises for all candidates except the first, chosen on validation boards."""
VALIDATION = 32
"""Number of validation boards."""
STOP = 1e-3
"""Change of probabilities below which a board has converged."""
CELLS = "energy finds wrong cells"
HARD = "hard"
"""The test set of puzzles that need guesses."""
UNSOLVED = 0.05
"""Maximum share of boards solved by the feed-forward twin where the EBT is judged."""
AUROC = 0.75


Test = int | str
"""A test set: the number of givens, or ``HARD``."""


@dataclass(frozen=True)
class SudokuPlan:
    """The models to train and measure."""

    out: Path
    size: int
    collection: str | None
    puzzles: int
    givens: tuple[int, int]
    test_givens: tuple[int, ...]
    guesses: int | None
    symmetries: bool
    rules: bool
    kinds: tuple[str, ...]
    layers: int
    dim: int
    minutes: float
    boards: int
    steps: tuple[int, ...]
    candidates: int
    seeds: int
    batch_size: int
    device: str

    @classmethod
    def of(cls, args: argparse.Namespace) -> SudokuPlan:
        """Create the plan from the options. Defaults depend on the board size, and are smaller in a quick study."""
        quick, few = args.quick, args.size == 9 and args.collection is not None
        usual = {4: (5, 9), 6: (14, 20), 9: (17, 34) if few else (28, 45)}
        tests = {4: (4, 6), 6: (9, 10, 12, 14), 9: (17, 20, 24, 28, 34) if few else (24, 28, 32, 36, 40)}
        steps = args.steps or ([1, 2, 4] if quick else [1, 2, 3, 4, 8, 16, 32, 64])
        return cls(
            Path(args.out),
            args.size,
            args.collection,
            args.puzzles or (64 if quick else 4000 if args.size < 9 else 50_000),
            tuple(args.givens or usual[args.size]),
            tuple(args.test_givens or tests[args.size][: 2 if quick else None]),
            args.guesses,
            args.symmetries,
            not args.no_rules,
            tuple(args.kinds or KINDS),
            args.layers,
            args.dim,
            args.minutes or (0.02 if quick else 30.0),
            args.boards or (8 if quick else 500),
            tuple(sorted(set(steps))),
            args.candidates or (2 if quick else 8),
            args.seeds,
            args.batch_size or (64 if args.size < 9 else 32),
            args.device,
        )

    @property
    def tests(self) -> tuple[Test, ...]:
        """The test sets."""
        return self.test_givens if self.guesses is None else (*self.test_givens, HARD)

    def name(self, test: Test) -> str:
        """What the boards of a test set have in common."""
        return f"{self.guesses} guesses or more" if test == HARD else f"{test} givens"

    def data(self) -> dict[str, Any]:
        """Settings of the data module. Seeds share the puzzles and differ in their order and relabelling."""
        return {
            "size": self.size,
            "train_count": self.puzzles,
            "train_givens": list(self.givens),
            "validation_count": 2 if self.boards < VALIDATION else VALIDATION,
            "validation_givens": [min(self.test_givens), max(self.test_givens)],
            "test_count": self.boards,
            "test_givens": list(self.test_givens),
            **({} if self.guesses is None else {"test_guesses": self.guesses}),
            "batch_size": self.batch_size,
            "permute_lines": self.symmetries,
        }

    def model(self, kind: str, seed: int) -> Run:
        """Return the training run of a model."""
        own: dict[str, Any] = HEAD if kind == "ebt" else {}
        if kind == RECURSIVE:
            own = {"layers": max(1, self.layers // 2), "inner": INNER}
        settings = {
            "kind": kind,
            "network": {"size": "nano", "layers": self.layers, "dim": self.dim, "rules": self.rules, **own},
            "recipe": asdict(RECIPE if kind == "ebt" else Recipe() if kind == TWIN else LOOPS),
            "optimisation": asdict(OPTIMISATION),
            "data": self.data(),
            "collection": None if self.collection is None else identity(self.collection),
            "minutes": self.minutes,
            "seed": seed,
            **({} if self.device == "cpu" else {"device": self.device}),
        }
        run = Run(f"model {kind} {seed}", train_board_model, settings, self.out / "raw")
        folder = self.out / "models" / run.key
        places = {"collection": self.collection, "model": str(folder)}
        return Run(run.name, run.work, settings, run.folder, places, folder / "config.json")

    def stopping(self, seed: int, test: Test) -> Run:
        """Return the measurement in which each board stops when it has converged."""
        run = self.curve("ebt", seed, test)
        settings = {**run.settings, "steps": [max(self.steps)], "candidates": [1], "tolerance": STOP}
        return Run(f"{run.name} stopping", measure_boards, settings, run.folder, run.places)

    def curve(self, kind: str, seed: int, test: Test) -> Run:
        """Return the measurement against steps with one and several candidates. Loops take as many passes as one candidate."""
        model, steps, how = self.model(kind, seed), set(self.steps), dict[str, Any]()
        if kind == "ebt":
            how = {"choosing": {"steps": max(steps), "candidates": self.candidates, "scales": SCALES, "noises": NOISES}}
        if kind in LOOPED:
            steps.add(2 * max(steps))
        candidates = sorted({1, self.candidates}) if kind == "ebt" else [1]
        how |= {"givens": test, "steps": [1] if kind == TWIN else sorted(steps), "candidates": candidates}
        settings = {"model": model.settings, **how}
        return Run(f"{kind} {seed} {self.name(test)}", measure_boards, settings, self.out / "raw", model.places)


def plan(args: argparse.Namespace) -> SudokuPlan:
    """Create the plan from the options."""
    return SudokuPlan.of(args)


def stages(plan: SudokuPlan) -> list[list[Run]]:
    """Return the stages: models, then their curves."""
    seeds = range(plan.seeds)
    curves = [plan.curve(kind, seed, test) for seed in seeds for kind in plan.kinds for test in plan.tests]
    if "ebt" in plan.kinds:
        curves += [plan.stopping(seed, test) for seed in seeds for test in plan.tests]
    return [[plan.model(kind, seed) for seed in seeds for kind in plan.kinds], curves]


Results = Mapping[str, Result]


@dataclass(frozen=True)
class Line:
    """The results of a model on the boards of a test set, by steps and seed."""

    name: str
    evaluations: dict[int, float]
    """Forward and inner backward passes."""
    solved: dict[int, list[float]]
    """Percentage of boards solved, by steps and seed."""
    cell: dict[int, Estimate]
    auroc: Estimate | None
    """AUROC of the energies of cells after the last step, with the worst and the best seed."""

    @property
    def exact(self) -> dict[int, Estimate]:
        """Percentage of boards solved, by steps, with the worst and the best seed."""
        return {step: spread(values) for step, values in self.solved.items()}

    def within(self, evaluations: float) -> list[float] | None:
        """Return the percentage by seed, at the best number of steps (in hindsight) with at most ``evaluations`` passes."""
        steps = [step for step, passes in self.evaluations.items() if passes <= evaluations]
        return max((self.solved[step] for step in steps), key=fmean) if steps else None


Lines = Mapping[Test, list[Line]]


def _line(plan: SudokuPlan, results: Results, kind: str, test: Test, candidates: int = 1) -> Line:
    all_points = (results[plan.curve(kind, seed, test).key].values["points"] for seed in range(plan.seeds))
    curves = [[point for point in points if point["candidates"] == candidates] for points in all_points]
    by_step = {points[0]["steps"]: points for points in zip(*curves, strict=True)}
    aurocs = [curve[-1]["cell_auroc"] for curve in curves]

    def percent(name: str) -> dict[int, list[float]]:
        return {step: [100 * point[name] for point in points] for step, points in by_step.items()}

    return Line(
        KINDS[kind] if candidates == 1 else _verified(candidates),
        {step: _passes(points[0]) for step, points in by_step.items()},
        percent("exact"),
        {step: spread(values) for step, values in percent("cell").items()},
        spread(aurocs) if all(value is not None for value in aurocs) else None,
    )


def report(plan: SudokuPlan, results: Results) -> Page:
    """Create tables by number of givens, verdicts and plots."""
    lines = {test: [_line(plan, results, kind, test) for kind in plan.kinds] for test in plan.tests}
    if "ebt" in plan.kinds:
        for test, found in lines.items():
            found.insert(1, _line(plan, results, "ebt", test, plan.candidates))
    title = f"{plan.size}x{plan.size} Sudoku"
    puzzles = _puzzles(plan, results)
    effort_lines(_panels(plan, lines, lambda line: line.exact), plan.out / "sudoku.png", "boards solved (%)", title)
    effort_lines(_panels(plan, lines, lambda line: line.cell), plan.out / "cells.png", "empty cells right (%)", title)
    judged = _verdicts(plan, lines)
    tables = [
        *(_table(plan.name(test), found) for test, found in lines.items()),
        _last(plan, lines),
        *([_stopping(plan, lines, results)] if "ebt" in plan.kinds else []),
    ]
    return Page(
        title=f"{title} by thinking, {puzzles:,} puzzles, {plan.minutes:g} minutes ({plan.device})",
        question="Boards with few givens need search. How many does a model solve, and does thinking longer than in training "
        "help, for an EBT and for the same blocks without an energy?",
        setting=_setting(plan, results),
        tables=tables,
        verdicts=judged,
        answer=answer(judged),
        front=front(judged, tables),
        pictures={
            "sudoku.png": "Boards solved against function evaluations, forward and inner backward passes together; bands "
            "reach from the worst to the best seed.",
            "cells.png": "Empty cells right, likewise.",
        },
        numbers={"lines": {str(test): [_numbers(line) for line in found] for test, found in lines.items()}},
    )


def answer(verdicts: Sequence[Verdict]) -> str:
    """Answer from the verdicts on one candidate against each rival."""
    found = [verdict for verdict in verdicts if ", best of" not in verdict.name]
    rivals = {_rival(one.name.partition(" over ")[2]): (one.met, one.told) for one in found if " over " in one.name}
    boards = found[0].name.partition(",")[0] if found else ""
    return shown(f"the EBT solves more boards with {boards}", rivals, "than")


def _rival(name: str) -> str:
    """The name of a rival within a sentence."""
    for kind, words in SPOKEN.items():
        name = name.replace(kind, words)
    return name


def front(verdicts: Sequence[Verdict], tables: Sequence[Table]) -> Table | None:
    """Return the table of the boards that the verdicts are on, None without verdicts."""
    judged = verdicts[0].name.partition(",")[0] if verdicts else None
    return next((table for table in tables if table.title.partition(":")[0] == judged), None)


def _panels(plan: SudokuPlan, lines: Lines, of: Callable[[Line], dict[int, Estimate]]) -> dict[str, dict[str, Any]]:
    """Return a quantity against evaluations, by test set and model."""
    return {
        plan.name(test): {line.name: [(line.evaluations[s], asdict(value)) for s, value in of(line).items()] for line in found}
        for test, found in lines.items()
    }


def _numbers(line: Line) -> dict[str, Any]:
    return asdict(line) | {"exact": {step: asdict(found) for step, found in line.exact.items()}}


def _setting(plan: SudokuPlan, results: Results) -> list[str]:
    made = {kind: [results[plan.model(kind, seed).key].values for seed in range(plan.seeds)] for kind in plan.kinds}
    sizes = "; ".join(
        f"{KINDS[kind]} {found[0]['parameters']:,}, {', '.join(str(one['updates']) for one in found)}"
        for kind, found in made.items()
    )
    first = (
        f"For the first {RECIPE.warm_start:.0%} of its time the EBT does not see its candidates and learns as its twin; then "
        f"with {RECIPE.min_steps} to {RECIPE.max_steps} steps, a loss and a gradient at the last alone, and replay. "
    )
    rules = "The attention of all models knows which cells share a row, a column or a box."
    rules = rules if plan.rules else "No model is told which cells share a row, a column or a box: all must find out."
    recursive = (
        " Recursive: half of the layers, an answer and a latent state in turns, in the manner of a tiny recursive model "
        f"(Jolicoeur-Martineau 2025); an iteration is {INNER + 1} passes of half the layers."
    )
    recursive = recursive if RECURSIVE in plan.kinds else ""
    puzzles = _puzzles(plan, results)
    source = "generated" if plan.collection is None else f"of {Path(plan.collection).name}, further cells revealed at random"
    return [
        f"Trained on {puzzles:,} puzzles, {source}, with {plan.givens[0]} to {plan.givens[1]} givens, digits "
        f"{'and lines ' if plan.symmetries else ''}permuted; {plan.boards} test boards for each number of givens. No "
        "solution grid of training occurs in a test, in any labelling of the digits.",
        *([_hard(plan)] if plan.guesses is not None else []),
        f"{plan.minutes:g} minutes {_where(plan)} for each model; {plan.layers} layers of {plan.dim}, {plan.batch_size} boards "
        f"an update, the same optimiser. Seeds {', '.join(map(str, range(plan.seeds)))}. "
        f"Loops train with {LOOPS.min_steps} to {LOOPS.max_steps} iterations and a loss at each. Weights "
        f"are averaged over the second half (of what follows a warm start). {first}{rules}",
        f"Parameters and updates by seed: {sizes}.",
        "The rivals have the same blocks and no energy. Feed-forward: one pass. Looped: the same blocks again and again, which "
        f"see their last prediction or their last hidden state.{recursive}",
        "A step of the EBT is a forward and a backward pass, an iteration of a looped transformer one forward pass. Verdicts "
        "take the EBT after its last step, and loops after as many iterations as are best on the very boards of the test.",
        *([_thinking(plan, results)] if "ebt" in plan.kinds else []),
        "Published, with other data and far more compute: EBT 29.7 % out of distribution, its feed-forward twin 0.03 % "
        "(Gladstone et al., ICLR 2026, table 5); on Sudoku-Extreme TRM 87.4 %, HRM 55 % (Jolicoeur-Martineau 2025).",
    ]


def _puzzles(plan: SudokuPlan, results: Results) -> int:
    """How many puzzles the models were trained on. A collection may have fewer than asked for."""
    count: int = results[plan.model(plan.kinds[0], 0).key].values.get("puzzles", plan.puzzles)
    return count


def _hard(plan: SudokuPlan) -> str:
    return (
        f"{plan.name(HARD)}: as many boards with {min(plan.test_givens)} givens that need so many guesses of a solver that "
        "fills in naked and hidden singles, and where there are none tries the digits of a cell with the fewest."
    )


def _where(plan: SudokuPlan) -> str:
    return "of one processor" if plan.device == "cpu" else f"on a device ({plan.device}) that all runs share"


def _thinking(plan: SudokuPlan, results: Results) -> str:
    """Describe the thinking options chosen on validation boards."""
    found = [results[plan.curve("ebt", seed, plan.test_givens[0]).key].values for seed in range(plan.seeds)]
    scales, noises = (", ".join(f"{one[name]:g}" for one in found) for name in ("scale", "noise"))
    count = plan.data()["validation_count"]
    return (
        f"How the EBT thinks was chosen on {count} validation boards with {min(plan.test_givens)} to {max(plan.test_givens)} "
        f"givens, by seed: {scales} times the learned step size (of {', '.join(map(str, SCALES))}), and for all candidates but "
        f"the first Langevin noise {noises} (of {', '.join(map(str, NOISES))})."
    )


def _table(test: str, lines: list[Line]) -> Table:
    steps = sorted({step for line in lines for step in line.exact})
    rows = [[line.name, *(f"{line.exact[step].mean:.1f}" if step in line.exact else "" for step in steps)] for line in lines]
    title = f"{test}: boards solved (%) after so many steps or iterations"
    return Table(title, ["", *map(str, steps)], rows, "Means over the seeds.")


def _last(plan: SudokuPlan, lines: Lines) -> Table:
    rows = [
        [
            f"{plan.name(test)}, {line.name}",
            line.exact[most].text(1),
            line.cell[most].text(1),
            f"{line.evaluations[most]:.0f}",
            "" if line.auroc is None else line.auroc.text(3),
        ]
        for test, found in lines.items()
        for line in found
        for most in [max(step for step in line.exact if step <= max(plan.steps))]
    ]
    note = (
        "Means over the seeds, in brackets the worst and the best of them. Passes: forward and inner backward. AUROC: how well "
        "a cell's energy tells that it is wrong."
    )
    return Table(f"After {max(plan.steps)} steps or iterations", ["", "boards %", "cells %", "passes", "AUROC"], rows, note)


def _stopping(plan: SudokuPlan, lines: Lines, results: Results) -> Table:
    """Return the table of the costs and savings of early stopping."""
    rows = []
    for test, found in lines.items():
        ours = next(line for line in found if line.name == KINDS["ebt"])
        early = [results[plan.stopping(seed, test).key].values["points"][0] for seed in range(plan.seeds)]
        solved, passes = spread([100 * one["exact"] for one in early]), spread([_passes(one) for one in early])
        most = max(ours.exact)
        plain = [ours.exact[most].text(1), f"{ours.evaluations[most]:.0f}"]
        rows.append([plan.name(test), *plain, solved.text(1), passes.text(1)])
    head = ["boards", f"after {max(plan.steps)} steps, %", "passes", "stopping, %", "passes of a board"]
    note = (
        f"A board stops when its probabilities change by less than {STOP:g}, after {max(plan.steps)} steps at the latest. "
        "A small change of its energy tells less well when to stop (docs/lab-notes.md)."
    )
    return Table("EBT that stops when it has converged", head, rows, note)


def _passes(point: Json) -> float:
    return float(point["forward"] + point["backward"])


def _verdicts(plan: SudokuPlan, lines: Lines) -> list[Verdict]:
    if not {"ebt", TWIN, RIVAL} <= set(plan.kinds):
        return []
    easiest = _easiest(plan, lines)
    if easiest is None:
        return [Verdict("the twin fails", False, f"it solves {UNSOLVED:.0%} or more of all boards: give fewer givens")]
    named = {line.name: line for line in lines[easiest]}
    ours, twin = named[KINDS["ebt"]], named[KINDS[TWIN]]
    found = [_over(f"{easiest} givens, EBT over the feed-forward twin", ours.solved[max(ours.solved)], twin.solved[1])]
    for line in (ours, named[_verified(plan.candidates)]) if plan.candidates > 1 else (ours,):
        best, most = line.solved[max(line.solved)], max(line.evaluations.values())
        for kind in LOOPED:
            if kind in plan.kinds and (theirs := named[KINDS[kind]].within(most)) is not None:
                reach = max(passes for passes in named[KINDS[kind]].evaluations.values() if passes <= most)
                rival = f"{KINDS[kind]} at its best of up to {reach:.0f} passes"
                found.append(_over(f"{easiest} givens, {line.name} ({most:.0f} passes) over {rival}", best, theirs))
    if ours.auroc is not None:
        text = f"AUROC of the energies of cells, {easiest} givens: {ours.auroc.text(3)} (limit {AUROC})"
        found.append(Verdict(CELLS, ours.auroc.mean >= AUROC, text))
    return found


def _easiest(plan: SudokuPlan, lines: Lines) -> int | None:
    """Return the largest number of givens at which the twin solves almost no board."""
    twins = {givens: next(line for line in lines[givens] if line.name == KINDS[TWIN]) for givens in plan.test_givens}
    return max((givens for givens, twin in twins.items() if twin.exact[1].mean < 100 * UNSOLVED), default=None)


def _verified(candidates: int) -> str:
    return f"{KINDS['ebt']}, best of {candidates}"


def _over(name: str, ours: list[float], theirs: list[float]) -> Verdict:
    """Return a verdict that is met if the interval of the difference, paired by seed, lies above 0."""
    gap, means = over_seeds([own - other for own, other in zip(ours, theirs, strict=True)]), (fmean(ours), fmean(theirs))
    text = f"{means[0]:.1f} % against {means[1]:.1f} %: {gap.text(1, sign=True)} points (limit: the whole interval above 0)"
    return Verdict(name, gap.low is not None and gap.low > 0, text)
