"""The models that complete boards."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_toys import CONDITIONINGS, TINY, randomise
from torch import Tensor

from ebt.errors import InputError
from ebt.models.thinking import SPACES
from ebt.problems.folder import load_folder, save_folder
from ebt.problems.sudoku.configuration import EBTSudokuConfig, SudokuTransformerConfig
from ebt.problems.sudoku.models import BoardEmbedding, EBTForSudoku, SudokuTransformer

VARIANTS: list[dict[str, Any]] = [*CONDITIONINGS.values(), *({"space": space} for space in SPACES)]


def make_model(board: int = 4, **config: Any) -> EBTForSudoku:
    return randomise(EBTForSudoku(EBTSudokuConfig(board=board, **{**TINY, "step_size": 3.0, **config})))


def make_puzzles(board: int = 4, rows: int = 3) -> Tensor:
    return torch.randint(0, board + 1, (rows, board**2), generator=torch.Generator().manual_seed(0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("config", VARIANTS, ids=str)
@pytest.mark.parametrize("board", [4, 6, 9])
def test_boards_are_completed_and_givens_kept(board: int, config: dict[str, Any]) -> None:
    model, puzzles = make_model(board, **config), make_puzzles(board)
    solved = model.predict(puzzles, candidates=2, generator=seeded())
    assert torch.equal(solved[puzzles > 0], puzzles[puzzles > 0])
    assert solved.min() >= 1
    assert solved.max() <= board
    assert torch.equal(solved, model.predict(puzzles, candidates=2, generator=seeded()))


def test_the_board_with_the_lowest_summed_energy_wins() -> None:
    model, puzzles = make_model(), make_puzzles()
    thought = model.think(puzzles, candidates=5, generator=seeded()).candidates
    assert thought.energies.shape == (4, 15, 16)
    winner = thought.energies[-1].sum(-1).view(5, 3).argmin(0)
    assert len(winner.unique()) > 1
    words = model.geometry().decide(thought.state).view(5, 3, 16)[winner, torch.arange(3)]
    expected = torch.where(puzzles == 0, words + 1, puzzles)
    assert torch.equal(model.predict(puzzles, candidates=5, generator=seeded()), expected)


def test_candidates_of_given_cells_are_not_seen() -> None:
    model, puzzles = make_model(), make_puzzles()
    landscape, start = model.landscape(puzzles), model.geometry().view(model.geometry().start((3, 16), source=seeded()))
    given = (puzzles > 0).unsqueeze(-1)
    torch.testing.assert_close(landscape(start + given * 7.0, 0), landscape(start, 0))
    assert not torch.allclose(landscape(start + ~given * 7.0, 0), landscape(start, 0))


def test_inference_mode_works() -> None:
    model, puzzles = make_model(), make_puzzles()
    expected = model.predict(puzzles, generator=seeded())
    with torch.inference_mode():
        assert torch.equal(model.predict(make_puzzles(), generator=seeded()), expected)


def test_at_least_one_step_and_candidate() -> None:
    with pytest.raises(InputError, match="steps is 0"):
        make_model().predict(make_puzzles(), steps=0)
    with pytest.raises(InputError, match="candidates is 0"):
        make_model().think(make_puzzles(), candidates=0)


@pytest.mark.parametrize("board", [4, 6, 9])
def test_cells_know_their_row_column_and_box(board: int) -> None:
    embedding = BoardEmbedding(board, 8)
    for table in (embedding.digit, embedding.row, embedding.column):
        torch.nn.init.zeros_(table.weight)
    vectors = embedding(torch.zeros(1, board**2, dtype=torch.long))[0].view(board, board, 8)
    high, wide = {4: (2, 2), 6: (2, 3), 9: (3, 3)}[board]
    boxes = [
        vectors[i : i + high, j : j + wide].flatten(0, 1).unique(dim=0)
        for i in range(0, board, high)
        for j in range(0, board, wide)
    ]
    assert [len(box) for box in boxes] == [1] * board
    assert len(torch.cat(boxes).unique(dim=0)) == board


@pytest.mark.parametrize(("loop", "passes"), [("none", 1), ("prediction", 3), ("hidden", 3), ("recursive", 3)])
def test_rivals_give_logits_after_every_iteration(loop: str, passes: int) -> None:
    model = randomise(SudokuTransformer(SudokuTransformerConfig(board=6, loop=loop, **TINY)))
    logits = model(make_puzzles(6), iterations=3)
    assert [tuple(tensor.shape) for tensor in logits] == [(3, 36, 6)] * passes
    torch.testing.assert_close(model(make_puzzles(6), iterations=1)[0], logits[0])
    if passes > 1:
        assert not torch.allclose(logits[0], logits[2])


@pytest.mark.parametrize(
    ("loop", "config"), [(None, {}), *((None, config) for config in CONDITIONINGS.values()), ("none", {}), ("recursive", {})]
)
def test_models_that_know_the_rules_survive_saving(loop: str | None, config: dict[str, Any], tmp_path: Path) -> None:
    model: Any = make_model(rules=True, **config) if loop is None else make_rival(loop, rules=True)
    puzzles, candidate = make_puzzles(), torch.randn(3, 16, TINY["dim"], generator=seeded())

    def results(one: Any) -> Tensor:
        found: Tensor = one.landscape(puzzles)(candidate, 0) if loop is None else one(puzzles)[0]
        return found.detach()

    expected = results(model)
    torch.testing.assert_close(results(load_folder(save_folder(model, tmp_path / "model"))), expected)
    torch.nn.init.zeros_(model.network.relations.weight)
    assert not torch.allclose(results(model), expected)


def make_rival(loop: str, **config: Any) -> SudokuTransformer:
    return randomise(SudokuTransformer(SudokuTransformerConfig(4, loop, **TINY, **config)))


TEXT = "1.....2........."
PUZZLE = torch.tensor([[int(digit) for digit in TEXT.replace(".", "0")]])


def asked() -> dict[str, Any]:
    """All ways to ask models for boards."""
    models = {"ebt": make_model(), "feed-forward": make_rival("none"), "recursive": make_rival("recursive")}
    return {**models, **{f"{name} predict": model.predict for name, model in models.items()}}


@pytest.mark.parametrize("puzzle", [TEXT, PUZZLE[0], PUZZLE.view(1, 1, 16), PUZZLE.float(), PUZZLE.tolist()])
def test_all_models_take_the_same_puzzles(puzzle: Any) -> None:
    for name, ask in asked().items():
        if "predict" in name:
            assert torch.equal(ask(puzzle), ask(PUZZLE)), name
        elif name != "ebt":
            assert torch.equal(ask(puzzle)[-1], ask(PUZZLE)[-1]), name


@pytest.mark.parametrize(
    ("puzzle", "told"),
    [
        *((torch.full((16,), digit), f"puzzle has the digit {digit}: .* 4x4, give whole") for digit in (-1, 5, 1.5, 0.9)),
        *((torch.full((16,), digit), f"puzzle has the digit {digit}") for digit in (math.nan, math.inf)),
        (torch.zeros(1, 15), r"puzzle has shape \(1, 15\): .* 4x4, give 16 cells"),
        (torch.zeros(1, 4, 4), r"puzzle has shape \(1, 4, 4\)"),
        (torch.zeros(0, 16), r"puzzle has shape \(0, 16\): .* at least one"),
        (torch.tensor(1), r"puzzle has shape \(\)"),
        ("12", "2 cells.*4x4: give 16"),
        (object(), "cannot be made a tensor"),
    ],
)
def test_all_models_refuse_the_same_puzzles(puzzle: Any, told: str) -> None:
    for ask in asked().values():
        with pytest.raises(InputError, match=told):
            ask(puzzle)
