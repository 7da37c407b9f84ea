"""The example of a task of one's own runs, and thinking helps in it."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_task.py"


@pytest.mark.filterwarnings("ignore")
def test_more_steps_make_smaller_errors() -> None:
    errors = runpy.run_path(str(EXAMPLE))["main"](updates=120)
    assert errors[4] < errors[2] < errors[1] / 2


def test_it_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 100
