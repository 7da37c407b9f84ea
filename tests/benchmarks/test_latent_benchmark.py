"""The benchmark of latent descents: tiny runs, resumed."""

from __future__ import annotations

import json
from pathlib import Path

import latent
import pytest
from test_curves import here

from ebt.errors import InputError
from ebt.lab.studies import runs
from ebt.problems.sudoku.boards import write_csv
from ebt.problems.sudoku.generator import generate


def test_it_trains_measures_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "pool", here)
    write_csv(tmp_path / "few.csv", *generate(9, 26, 30, seed=1))
    options = [
        "--quick",
        "--seeds=1",
        "--burn-in=2",
        "--minutes=0.001",
        f"--out={tmp_path}",
        f"--json={tmp_path / 'all.json'}",
        f"--collection={tmp_path / 'few.csv'}",
        "--kinds",
        "latent",
        "feed_forward",
    ]
    assert latent.main(options) == 0
    results = json.loads((tmp_path / "all.json").read_text())["results"]
    assert {one["set"] for one in results} == {"givens_10", "givens_28", "size_9"}
    assert {one["kind"] for one in results} == {"latent", "feed_forward"}
    for one in results:
        assert list(one["exact"]) == (["1"] if one["kind"] == "feed_forward" else ["1", "2"])
        assert bool(one["best"]) == (one["kind"] == "latent" and one["set"] != "size_9")
        assert [len(each) for each in one["visited"]] == ([2] if one["best"] else [])  # with one candidate and with several
        assert one["updates"][0] > 0
    for file in tmp_path.glob("*-0-*.json"):
        recipe = json.loads(file.read_text())["settings"]["recipe"]
        assert recipe["burn_in"] == (2 if "latent" in file.name else 0)
    capsys.readouterr()
    next(tmp_path.glob("mazes-latent-0-*.json")).unlink()
    assert latent.main(options) == 0
    assert "5 of them finished before" in capsys.readouterr().out


def test_large_boards_need_their_puzzles() -> None:
    with pytest.raises(InputError, match="--collection"):
        latent.main(["--only", "large boards"])
