"""Training by a call leaves the process as it was."""

from __future__ import annotations

import logging
import os
import warnings

import trainings

from ebt.problems.sudoku.task import SudokuNetwork, SudokuTask
from ebt.training.loop import quiet, train


def state() -> tuple[object, ...]:
    levels = [logging.getLogger(name).level for name in ("lightning.pytorch", "lightning.fabric")]
    return warnings.showwarning, list(warnings.filters), levels, os.environ.get("JSONARGPARSE_DEPRECATION_WARNINGS")


def test_a_training_leaves_warnings_and_loggers_as_they_were() -> None:
    before = state()
    train(SudokuTask(SudokuNetwork(**trainings.SIZES)), trainings.boards(8), 1, lambda *_: None)
    assert state() == before


def test_noise_is_left_out_and_warnings_stay() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet("mine.*"):
            warnings.warn("The dataloader does not have many workers")
            warnings.warn("mine, too")
            warnings.warn("a real one")
    assert [str(warning.message) for warning in caught] == ["a real one"]
