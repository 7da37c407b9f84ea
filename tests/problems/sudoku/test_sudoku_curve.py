from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_models import sudoku_ebt, sudoku_rival
from torch import Tensor

from ebt.errors import InputError
from ebt.evaluation.cells import CellsPoint
from ebt.problems.sudoku.generator import generate
from ebt.problems.sudoku.metrics import sudoku_curve, watch_board
from ebt.problems.sudoku.models import EBTForSudoku

STEPS, CANDIDATES, BOARDS = [1, 2, 6], [1, 3], 5
CALM = 0.1
CONFIGS: dict[str, dict[str, Any]] = {
    "restart": {},
    "compact-mirror": {"space": "compact-mirror"},
    "step told to the candidates": {"conditioning": "candidate", "conditioned_steps": 3},
}


def boards(count: int = BOARDS) -> tuple[Tensor, Tensor]:
    made = generate(4, (6, 9), count, seed=1)
    return torch.from_numpy(made.puzzles), torch.from_numpy(made.solutions)


def calm(model: EBTForSudoku) -> EBTForSudoku:
    """A flatter landscape, where thinking converges."""
    model.network.head.projection.weight.data *= CALM
    return model


def known(point: CellsPoint) -> dict[str, float]:
    return {name: value for name, value in vars(point).items() if value is not None}


def by_hand(
    model: Any, puzzles: Tensor, solutions: Tensor, steps: int, count: int, tolerance: float | None
) -> dict[str, float]:
    """A descent of its own; each board's candidate with the lowest summed energy; cells compared one by one."""
    thought = model.think(puzzles, steps=steps, candidates=count, tolerance=tolerance, seed=2).candidates
    energies = thought.energies[-1].sum(-1).view(count, -1)
    right, exact = 0, 0
    for board, puzzle in enumerate(puzzles.tolist()):
        winner = min(range(count), key=lambda m: energies[m, board].item())
        digits = (model.geometry().logits(thought.state)[winner * len(puzzles) + board].argmax(-1) + 1).tolist()
        hits = [d == s for d, s, p in zip(digits, solutions[board].tolist(), puzzle, strict=True) if p == 0]
        right, exact = right + sum(hits), exact + all(hits)
    return {
        "exact": exact / len(puzzles),
        "cell": right / int((puzzles == 0).sum()),
        "energy": energies.amin(0).mean().item(),
        "steps_taken": thought.steps.double().mean().item(),
        "forward": count * (thought.steps.double().mean().item() + (count > 1)),
        "backward": count * thought.steps.double().mean().item(),
    }


@pytest.mark.parametrize("tolerance", [None, 0.02])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_one_descent_gives_what_a_separate_one_for_each_number_of_steps_gives(
    config: dict[str, Any], tolerance: float | None
) -> None:
    model, (puzzles, solutions) = sudoku_ebt(**config), boards()
    curve = sudoku_curve(model, puzzles, solutions, STEPS, CANDIDATES, tolerance=tolerance, seed=2)
    for steps in STEPS:
        for count in CANDIDATES:
            point, expected = curve.at(steps, count), by_hand(model, puzzles.long(), solutions.long(), steps, count, tolerance)
            assert {name: getattr(point, name) for name in expected} == pytest.approx(expected, rel=1e-8)


def test_with_a_tolerance_converged_boards_stop_and_keep_their_state() -> None:
    model, (puzzles, solutions) = calm(sudoku_ebt()), boards()
    point = sudoku_curve(model, puzzles, solutions, [2, 50], tolerance=1e-3).at(50)
    assert 2 < point.steps_taken < 12
    whole = sudoku_curve(model, puzzles, solutions, [50]).at(50)
    assert (point.exact, point.cell) == (whole.exact, whole.cell)
    assert point.energy == pytest.approx(whole.energy, rel=1e-2)


@pytest.mark.parametrize("batch_size", [1, 6, 1000])
def test_the_batch_size_changes_nothing(batch_size: int) -> None:
    model, (puzzles, solutions) = sudoku_ebt(start_std=0.0), boards()
    seen: list[tuple[int, int | None]] = []
    curve = sudoku_curve(
        model, puzzles, solutions, STEPS, CANDIDATES, batch_size=batch_size, progress=lambda *done: seen.append(done)
    )
    expected = sudoku_curve(model, puzzles, solutions, STEPS, CANDIDATES)
    for point, other in zip(curve.points, expected.points, strict=True):
        assert known(point) == pytest.approx(known(other), rel=1e-9)
    assert seen[-1] == (BOARDS, BOARDS)
    assert len(seen) == {1: 5, 6: 3, 1000: 1}[batch_size]


@pytest.mark.parametrize("loop", ["prediction", "hidden"])
def test_a_looped_model_is_measured_by_iterations(loop: str) -> None:
    model, (puzzles, solutions) = sudoku_rival(loop), boards()
    curve = sudoku_curve(model, puzzles, solutions, STEPS, CANDIDATES, batch_size=2)
    every = model(puzzles.long(), iterations=6)
    for steps in STEPS:
        right = (every[steps - 1].argmax(-1) + 1 == solutions)[puzzles == 0].double().mean().item()
        point = curve.at(steps)
        assert (point.cell, point.forward, point.backward, point.energy) == (pytest.approx(right), steps, 0, None)
    assert (curve.kind, len(curve.points)) == ("looped", len(STEPS))


def test_a_feed_forward_model_is_one_point() -> None:
    curve = sudoku_curve(sudoku_rival("none"), *boards(), STEPS)
    assert (curve.kind, [(p.steps, p.forward) for p in curve.points]) == ("feed-forward", [(1, 1)])


class Oracle:
    """Knows the solutions, but errs in some cells."""

    device = torch.device("cpu")
    config = SimpleNamespace(loop="none")
    passes = 1

    def __init__(self, solutions: Tensor, errors: list[tuple[int, int]]) -> None:
        self.digits = solutions.long().clone()
        for board, cell in errors:
            self.digits[board, cell] = self.digits[board, cell] % 4 + 1

    def __call__(self, puzzle: Tensor, iterations: int) -> list[Tensor]:
        return [torch.nn.functional.one_hot(self.digits - 1, 4).double()]


def test_given_cells_do_not_count_and_one_wrong_cell_spoils_a_board() -> None:
    puzzles, solutions = boards()
    empty, given = (int((puzzles[0] == 0).nonzero()[0]), int((puzzles[1] > 0).nonzero()[0]))
    point = sudoku_curve(Oracle(solutions, [(0, empty), (1, given)]), puzzles, solutions, [1]).points[0]
    cells = int((puzzles == 0).sum())
    assert (point.exact, point.cell) == (pytest.approx(4 / 5), pytest.approx(1 - 1 / cells))
    assert point.exact_error == pytest.approx((0.8 * 0.2 / 5) ** 0.5)


def test_boards_need_solutions() -> None:
    puzzles, solutions = boards()
    for wrong in ((puzzles, solutions[:2]), (puzzles[:0], solutions[:0])):
        with pytest.raises(InputError, match="each with a solution"):
            sudoku_curve(sudoku_ebt(), *wrong, [1])


@pytest.mark.parametrize("tolerance", [None, 0.05])
def test_a_watched_board_ends_where_solving_ends(tolerance: float | None) -> None:
    model, puzzle = calm(sudoku_ebt()), boards()[0][0].long()
    how = {"steps": 12, "candidates": 3, "tolerance": tolerance, "seed": 5}
    watched, won = watch_board(model, puzzle, **how), model.think(puzzle.unsqueeze(0), **how)
    thought, solved = won.candidates, model.predict(puzzle.unsqueeze(0), **how)
    assert watched.boards[-1] == solved[0].tolist()
    assert watched.candidate_energies == pytest.approx(thought.energies[-1].sum(1).tolist())
    assert watched.winner == min(range(3), key=lambda m: watched.candidate_energies[m])
    assert watched.energies[-1] == pytest.approx(min(watched.candidate_energies))
    assert watched.energies[0] == pytest.approx(thought.energies[0, watched.winner].sum().item())
    assert len(watched.boards) == len(watched.energies) == len(watched.confidence) == int(won.steps) + 1 == watched.steps + 1
    assert all(c == 1 for p, c in zip(watched.puzzle, watched.confidence[0], strict=True) if p)
    assert (watched.steps < 12) == (tolerance is not None)
