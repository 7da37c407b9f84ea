"""The denoising benchmark: tiny runs of both kinds, resumed and summarised."""

from __future__ import annotations

import json
from pathlib import Path

import denoising
import pytest
from small_images import photo_folder

from ebt.errors import InputError


@pytest.fixture(scope="module", autouse=True)
def _small() -> None:
    denoising.SETTINGS.update(layers=1, dim=16, heads=2, patch_size=4)
    denoising.DATA.update(size=16, crops=2, batch_size=2, fractions=(0.5, 0.5, 0.0))
    denoising.PASSES, denoising.CROPS, denoising.CHOOSING, denoising.PROBED = (1, 3), 4, 2, 60


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    return photo_folder(tmp_path_factory.mktemp("photos") / "all")


def bench(folder: Path, photos: str, *options: str) -> int:
    arguments = ["--train", photos, "--test", photos, "--minutes", "0.003", "--seeds", "1", "--out", str(folder)]
    code: int = denoising.main([*arguments, "--json", str(folder / "all.json"), *options])
    return code


def test_it_trains_compares_and_goes_on_where_it_stopped(
    photos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench(tmp_path, photos) == 0
    summary = json.loads((tmp_path / "all.json").read_text())["summary"]
    for level in ("0.1", "0.2"):
        found = summary["levels"][level]
        assert list(found["ebt"]) == ["1", "2", "3", "4", "6"]
        assert list(found["dit"]) == list(found["margins"]) == ["1", "3"]
        assert all(gap["low"] <= gap["margin"] <= gap["high"] for gap in found["margins"].values())
        assert max(found["ebt within"]["steps"]) <= 3
        assert set(summary["twice the trained steps"][level][0]) == {"plain", "stopped"}
        assert -1 <= min(summary["spearman"][level]) <= max(summary["spearman"][level]) <= 1
    assert summary["training"]["ebt"]["updates"][0] > 0
    assert len(summary["probe"]["dit"]) == 1
    assert "noise level 0.2" in capsys.readouterr().out
    assert (tmp_path / "all.png").stat().st_size > 10_000

    (tmp_path / "dit-seed0.json").unlink()
    trained = []
    run = denoising.run
    monkeypatch.setattr(denoising, "run", lambda kind, seed, *rest: trained.append((kind, seed)) or run(kind, seed, *rest))
    assert bench(tmp_path, photos) == 0
    assert trained == [("dit", 0)]
    with pytest.raises(InputError, match="was made with other settings"):
        bench(tmp_path, photos, "--minutes", "0.004")


def test_margins_are_paired_by_image() -> None:
    ours, theirs = [{"psnrs": [20.0, 30.0, 40.0]}], [{"psnrs": [19.0, 29.0, 39.0]}, {"psnrs": [17.0, 27.0, 37.0]}]
    assert denoising.margin(ours, theirs) == {"margin": 2.0, "low": 2.0, "high": 2.0}


def test_ways_start_no_deeper_than_the_noise() -> None:
    ways = denoising.ways("dit", 0.1)
    assert {way.steps * way.rounds for way in ways} == set(denoising.PASSES)
    assert not any(way.trained_only for way in ways)
    assert any(way.trained_only for way in denoising.ways("dit", 0.2))
