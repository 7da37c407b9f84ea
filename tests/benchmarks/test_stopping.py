"""The thinking benchmark: a quick run from training to figures."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import think

from ebt.lab.demo.jobs import Settings


def test_quick_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    few = replace(Settings.quick(0), sudoku_updates=1, sudoku_puzzles=8, text_updates=1)
    monkeypatch.setattr(Settings, "quick", lambda seed: few)
    quick = ["--quick", "--models", str(tmp_path / "models")]
    assert think.main([*quick, "--json", str(tmp_path / "all.json")]) == 0
    first = capsys.readouterr()
    assert "training sudoku: 1 of 1" in first.err
    assert "sudoku, test data" in first.out
    results = json.loads((tmp_path / "all.json").read_text())["results"]
    assert [result["task"] for result in results] == ["text", "sudoku"]
    for result in results:
        for split in ("validation", "test"):
            fixed, stopped = (result["curves"][kind][split] for kind in ("fixed", "stopped"))
            for i, point in enumerate(fixed, 1):
                assert point["steps"] == i
                assert point["forward"] == pytest.approx(i)
                assert point["backward"] == pytest.approx(i)
            for before, point in pairwise(stopped):
                assert before["tolerance"] > point["tolerance"]
                assert 1 <= before["forward"] <= point["forward"] <= 32
        assert 0 < result["ratio"] == pytest.approx(result["stopped"]["forward"] / result["fixed"]["forward"])
        assert result["stopped"]["tolerance"] == result["tolerance"]

    assert think.main([*quick, "--only", "text"]) == 0
    again = capsys.readouterr()
    assert "training" not in again.err
    assert again.out.splitlines()[-1] == next(line for line in first.out.splitlines() if line.startswith("text:"))
