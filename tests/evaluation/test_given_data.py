"""Data given to `ebt.evaluate`: files, tensors, and what is neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ebt
from ebt.errors import InputError
from ebt.problems.mazes.configuration import EBTMazesConfig
from ebt.problems.mazes.models import EBTForMazes
from ebt.problems.sudoku.boards import write_csv
from ebt.problems.sudoku.generator import generate

WORDS = torch.zeros(2, 5, dtype=torch.long)
EMPTY, FULL = torch.zeros(2, 36, dtype=torch.long), torch.ones(2, 36, dtype=torch.long)
BYTES = torch.zeros(2, 1, 3, 32, 32, dtype=torch.uint8).unbind()
WRONG: dict[str, list[Any]] = {
    "sudoku-6x6": [
        3,
        "nowhere.csv",
        [],
        {},
        EMPTY,
        (1, 2),
        (EMPTY, "solutions"),
        (EMPTY, FULL[:, :35]),
        (EMPTY, FULL[:1]),
        (EMPTY, EMPTY),
        (EMPTY, FULL + 6),
        (EMPTY + 9, FULL),
        (EMPTY, FULL, FULL),
    ],
    "mazes": [3, "nowhere.txt", [], EMPTY, (EMPTY, EMPTY), (torch.ones(1, 7, 7), torch.full((1, 7, 7), 2))],
    "text-python": [
        3,
        "nowhere.txt",
        [],
        [""],
        [3],
        {},
        WORDS,
        [{"input_ids": WORDS}],
        [{"input_ids": WORDS, "targets": WORDS[:, 1:]}],
        [{"input_ids": WORDS.float(), "targets": WORDS}],
        {"input_ids": WORDS + 99_999, "targets": WORDS},
        {"input_ids": WORDS, "targets": WORDS - 1},
        {"input_ids": WORDS, "targets": WORDS - 100},
    ],
    "photos": [3, "nowhere.png", [], torch.zeros(3, 3, 32, 32), (torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8)), BYTES],
    "digits": [3, "nowhere.mp4", [1], [], torch.zeros(1, 2, 3), torch.zeros(2, 196)],
}


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {
        name: EBTForMazes(EBTMazesConfig(layers=1, dim=16, heads=2)) if name == "mazes" else ebt.load(name) for name in WRONG
    }


@pytest.mark.parametrize(("name", "data"), [(name, data) for name, each in WRONG.items() for data in each])
def test_what_is_no_data_is_refused(name: str, data: Any, models: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        ebt.evaluate(models[name], data, steps=[1])


def test_a_batch_a_list_and_a_file_give_the_same(models: dict[str, Any], tmp_path: Path) -> None:
    boards = generate(6, 30, 3, seed=0)
    write_csv(tmp_path / "boards.csv", boards.puzzles, boards.solutions)
    arrays = boards.puzzles, boards.solutions
    given = [tmp_path / "boards.csv", arrays, [torch.from_numpy(part) for part in arrays], [part.tolist() for part in arrays]]
    curves = [ebt.evaluate(models["sudoku-6x6"], data, [2]) for data in given]
    assert all(curve == curves[0] for curve in curves)
    assert curves[0].rows == 3
    batch = {"input_ids": WORDS, "targets": WORDS}
    one, two = (ebt.evaluate(models["text-python"], data, [1]) for data in (batch, [batch, batch]))
    assert np.isclose(one.points[0].nats, two.points[0].nats)
    assert (one.rows, two.rows) == (2, 4)
