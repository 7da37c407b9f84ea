"""The stability benchmark is the study of that name."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "stability.py"


def test_options_are_those_of_the_study(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [str(FILE), "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(FILE), run_name="__main__")
    told = capsys.readouterr().out
    assert "usage: ebt study stability" in told
    assert "--step-sizes" in told
