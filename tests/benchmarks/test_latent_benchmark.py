"""The benchmark of latent descents: tiny runs, resumed."""

from __future__ import annotations

import json
from pathlib import Path

import latent
import pytest
from test_curves import here

from ebt.lab.studies import runs


def test_it_trains_measures_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "pool", here)
    options = [
        "--quick",
        "--seeds=1",
        f"--out={tmp_path}",
        f"--json={tmp_path / 'all.json'}",
        "--kinds",
        "latent",
        "feed_forward",
    ]
    assert latent.main(options) == 0
    results = json.loads((tmp_path / "all.json").read_text())["results"]
    assert {one["set"] for one in results} == {"givens_9", "givens_10", "size_9"}
    assert {one["kind"] for one in results} == {"latent", "feed_forward"}
    for one in results:
        assert list(one["exact"]) == (["1"] if one["kind"] == "feed_forward" else ["1", "2"])
        assert bool(one["best"]) == (one["kind"] == "latent" and one["set"] != "size_9")
        assert one["updates"][0] > 0
    capsys.readouterr()
    next(tmp_path.glob("mazes-latent-0-*.json")).unlink()
    assert latent.main(options) == 0
    assert "3 of them finished before" in capsys.readouterr().out
