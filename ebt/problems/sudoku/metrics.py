"""Sudoku: solved boards against thinking steps and candidates; one board as it fills in.

Letters: n boards, M candidates, C cells, T steps. Puzzles have 0 at empty cells, digits 1 .. size elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ebt.errors import InputError
from ebt.evaluation.descents import Recorded, SelectableLandscape, check_counts, descend, evaluations, thinks
from ebt.evaluation.detection import auroc
from ebt.evaluation.results import Curve, Progress, SudokuPoint
from ebt.thinking import Rule, Simplex, Thought, alarms, choose


class BoardThinker(Protocol):
    """What is asked of a model that completes boards by thinking (``ebt.hub``: ``EBTForSudoku``)."""

    config: Any
    device: torch.device

    def landscape(self, puzzle: Tensor, /) -> SelectableLandscape: ...

    def space(self) -> Simplex: ...

    def alpha(self) -> Tensor: ...

    def noise(self, rows: int, candidates: int, /) -> Tensor: ...

    def start(self, puzzle: Tensor, candidates: int = 1, generator: torch.Generator | None = None, /) -> Tensor: ...

    def think(
        self,
        puzzle: Tensor,
        steps: int | None = None,
        candidates: int | None = None,
        tolerance: float | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Thought: ...


@torch.no_grad()
def sudoku_curve(
    model: Any,
    puzzles: Tensor,
    solutions: Tensor,
    steps: Sequence[int],
    candidates: Sequence[int] = (1,),
    rule: Rule = "lowest",
    tolerance: float | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> Curve[SudokuPoint]:
    """Quality of completed boards for every number of steps and candidates, on the same boards.

    One descent a batch serves all numbers, as in ``language_curve``; winners are chosen per board. With a tolerance a candidate
    that has converged leaves the batch, and its last state stands for all later steps.

    Args:
        model: an ``EBTForSudoku``, or a ``SudokuTransformer``, whose steps are iterations (a single point without a loop), of
            one forward pass or several.
        puzzles, solutions: (n, C).
        steps, candidates: which numbers to measure.
        rule: how winners are chosen.
        tolerance: see ``ebt.thinking.Descent``.
        batch_size: boards times candidates that are thought about at once; bounds the memory.
        seed: of the random starts.
        progress: called with the boards done, and all boards, after each batch.

    Raises:
        InputError: numbers below 1, no boards, or puzzles and solutions that differ in shape.
    """
    steps, candidates = check_counts("steps", steps), check_counts("candidates", candidates)
    if puzzles.shape != solutions.shape or not len(puzzles):
        shapes = f"puzzles {tuple(puzzles.shape)}, solutions {tuple(solutions.shape)}"
        raise InputError(f"{shapes}: give one or more boards, each with a solution.")
    tally = _Tally()
    generator = torch.Generator(model.device).manual_seed(seed)
    per_batch = max(1, batch_size // (max(candidates) if thinks(model) else 1))
    for rows in torch.arange(len(puzzles)).split(per_batch):
        puzzle, solution = (boards[rows].to(model.device).long() for boards in (puzzles, solutions))
        if thinks(model):
            _think_batch(model, puzzle, solution, steps, candidates, rule, tolerance, generator, tally)
        else:
            _iterate_batch(model, puzzle, solution, steps, tally)
        tally.boards += len(rows)
        tally.cells += int((puzzle == 0).sum())
        if progress:
            progress(tally.boards, len(puzzles))
    points = [sums.point(*key, tally.boards, tally.cells) for key, sums in tally.sums.items()]
    if thinks(model):
        ends = tally.start_energy / tally.boards, tuple(tally.alarms)
        return Curve("sudoku", "ebt", points, tally.boards, tally.cells, rule, tolerance, seed, *ends)
    return Curve("sudoku", "feed-forward" if model.config.loop == "none" else "looped", points, tally.boards, tally.cells)


def _think_batch(
    model: BoardThinker,
    puzzle: Tensor,
    solution: Tensor,
    steps: Sequence[int],
    candidates: Sequence[int],
    rule: Rule,
    tolerance: float | None,
    generator: torch.Generator,
    tally: _Tally,
) -> None:
    space, most = model.space(), max(candidates)
    start, conditioned = model.start(puzzle, most, generator), model.config.conditioning != "none"
    noise = model.noise(len(puzzle), most)
    record = descend(
        model.landscape(puzzle), space, start, model.alpha(), steps, most, tolerance, conditioned, noise, generator
    )
    if not tally.boards:
        tally.alarms = alarms(record.thought, space)
    tally.start_energy += record.thought.energies[0, : len(puzzle)].double().sum().item()
    for step in steps:
        for count in candidates:
            sums = tally.sums.setdefault((step, count), _Sums())
            sums.add_winners(record, step, count, rule, puzzle, solution)


def _iterate_batch(model: Any, puzzle: Tensor, solution: Tensor, steps: Sequence[int], tally: _Tally) -> None:
    every = model(puzzle, iterations=max(steps))
    for step in steps if model.config.loop != "none" else [1]:
        sums = tally.sums.setdefault((step, 1), _Sums())
        sums.add(every[step - 1].argmax(-1) + 1, puzzle, solution)
        sums.forward += step * model.passes * len(puzzle)
        sums.taken += step * len(puzzle)


@dataclass
class _Sums:
    """What is summed up for one number of steps and candidates."""

    right: int = 0
    energy: float = 0.0
    objective: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    taken: float = 0.0
    board_wrong: list[Tensor] = field(default_factory=list)
    board_energy: list[Tensor] = field(default_factory=list)
    cell_wrong: list[Tensor] = field(default_factory=list)
    cell_energy: list[Tensor] = field(default_factory=list)

    def add(self, digits: Tensor, puzzle: Tensor, solution: Tensor) -> None:
        empty = puzzle == 0
        wrong = empty & (digits != solution)
        self.right += int((empty & ~wrong).sum())
        self.board_wrong.append(wrong.any(1).cpu())
        self.cell_wrong.append(wrong[empty].cpu())

    def add_winners(self, record: Recorded, step: int, count: int, rule: Rule, puzzle: Tensor, solution: Tensor) -> None:
        won, space, boards = record.at(step, count, rule), record.space, len(puzzle)
        assert isinstance(space, Simplex)
        self.add(space.decide(won.state) + 1, puzzle, solution)
        energy = won.energies[-1]
        self.energy += energy.double().sum().item()
        self.objective += space.objective(energy, won.state, won.step_size).double().sum().item()
        self.board_energy.append(energy.sum(1).cpu())
        self.cell_energy.append(energy[puzzle == 0].cpu())
        taken = record.taken(step, count)
        forward, backward = evaluations(taken, count)
        self.taken, self.forward, self.backward = (
            self.taken + taken * boards, self.forward + forward * boards, self.backward + backward * boards
        )  # fmt: skip

    def point(self, steps: int, candidates: int, boards: int, cells: int) -> SudokuPoint:
        wrong = torch.cat(self.board_wrong)
        exact = 1 - wrong.double().mean().item()
        known = bool(self.board_energy)
        return SudokuPoint(
            steps,
            candidates,
            energy=self.energy / boards if known else None,
            objective=self.objective / boards if known else None,
            forward=self.forward / boards,
            backward=self.backward / boards,
            exact=exact,
            exact_error=math.sqrt(exact * (1 - exact) / boards),
            cell=self.right / max(1, cells),
            steps_taken=self.taken / boards,
            board_auroc=auroc(torch.cat(self.board_energy), wrong) if known else None,
            cell_auroc=auroc(torch.cat(self.cell_energy), torch.cat(self.cell_wrong)) if known else None,
        )


@dataclass
class _Tally:
    boards: int = 0
    cells: int = 0
    start_energy: float = 0.0
    alarms: list[str] = field(default_factory=list)
    sums: dict[tuple[int, int], _Sums] = field(default_factory=dict)


@dataclass(frozen=True)
class BoardThinking:
    """One board while it is thought about: the winner among the candidates, at the start and after each step."""

    puzzle: list[int]
    """The C givens, 0 where empty."""
    boards: list[list[int]]
    """(T + 1, C) digits: the givens, and the most probable ones elsewhere."""
    confidence: list[list[float]]
    """(T + 1, C) probability of each digit; 1 for givens."""
    energies: list[float]
    """(T + 1) energy of the board."""
    winner: int
    """Which candidate won, from 0."""
    candidate_energies: list[float]
    """Final energies of all M candidates."""
    steps: int
    """Updates that the winner really made."""
    forward: float
    backward: float


@torch.no_grad()
def watch_board(
    model: BoardThinker,
    puzzle: Tensor,
    steps: int,
    candidates: int = 1,
    rule: Rule = "lowest",
    tolerance: float | None = None,
    seed: int = 0,
) -> BoardThinking:
    """Think about one puzzle (C,) and keep what the board looked like after every step."""
    puzzle = puzzle.to(model.device).long().unsqueeze(0)
    generator, space = torch.Generator(model.device).manual_seed(seed), model.space()
    thought = model.think(puzzle, steps, candidates, tolerance, generator=generator)
    won = choose(thought, space, candidates, rule)
    made = int(won.steps)
    probabilities = torch.cat([space.logits(state).softmax(-1) for state in (won.start, *won.states[:made])])
    top, word = probabilities.max(-1)
    given = puzzle != 0
    energies = [*won.energies[:made].sum((1, 2)).tolist(), won.energies[-1].sum().item()]
    assert won.winner is not None
    return BoardThinking(
        puzzle=puzzle[0].tolist(),
        boards=torch.where(given, puzzle, word + 1).tolist(),
        confidence=top.masked_fill(given, 1.0).tolist(),
        energies=energies,
        winner=int(won.winner),
        candidate_energies=thought.energies[-1].sum(1).tolist(),
        steps=made,
        forward=thought.evaluations.forward * candidates,
        backward=thought.evaluations.backward * candidates,
    )
