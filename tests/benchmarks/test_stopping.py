"""The thinking benchmark: a quick run from training to figures."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def bench(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/think.py", "--quick", "--models", str(folder / "models"), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600)


def test_quick_run(tmp_path: Path) -> None:
    first = bench(tmp_path, "--json", str(tmp_path / "all.json"))
    assert "training sudoku: 4 of 4" in first.stderr
    assert "sudoku, test data" in first.stdout
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

    again = bench(tmp_path, "--only", "text")
    assert "training" not in again.stderr
    assert again.stdout.splitlines()[-1] == next(line for line in first.stdout.splitlines() if line.startswith("text:"))
