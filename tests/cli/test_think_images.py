"""``ebt think`` and ``ebt probe`` for images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_images import image_folder, photo_folder
from small_models import sudoku_folder

from ebt.cli.main import main


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = tmp_path_factory.mktemp("models")
    return {"ebt": image_folder(path / "ebt"), "dit": image_folder(path / "dit", dit=True), "photos": photo_folder(path / "p")}


def test_psnr_against_steps_and_energy_against_error(
    folders: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--checkpoint", folders["ebt"], "--baseline", folders["dit"], "--data", folders["photos"]]
    options = ["--steps", "1,2,4", "--limit", "6", "--noise", "0.2", "--out", str(tmp_path)]
    assert main(["think", *arguments, *options]) == 0
    read = json.loads((tmp_path / "thinking.json").read_text())
    points = {
        name: [(point["steps"], point["backward"]) for point in curve["points"]] for name, curve in read["curves"].items()
    }
    assert points == {"ebt": [(1, 1), (2, 2), (4, 4)], "dit": [(1, 0), (2, 0), (4, 0)]}
    assert [len(point["psnrs"]) for point in read["curves"]["ebt"]["points"]] == [6] * 3
    assert -1 <= json.loads((tmp_path / "energy-error.json").read_text())["spearman"] <= 1
    for name in ("thinking.png", "energy.png", "energy-error.png", "energy-map.png"):
        assert np.array(Image.open(tmp_path / name)).shape[1] > 500
    out = capsys.readouterr().out
    assert "noise 0.2: 6 images" in out
    assert "dB" in out


def test_a_tolerance_stops(folders: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--checkpoint", folders["ebt"], "--data", folders["photos"], "--steps", "9", "--tolerance", "1e9"]
    assert main(["think", *arguments]) == 0
    assert "1 + 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--candidates", "2"], "--candidates is not for images"),
        (["--givens", "4"], "--givens is not for images"),
        ([], "is not part of a run folder"),
    ],
)
def test_options_of_other_tasks_are_refused(
    folders: dict[str, str], options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["think", "--checkpoint", folders["ebt"], *options]) == 2
    assert message in capsys.readouterr().err


def test_noise_is_for_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["think", "--checkpoint", sudoku_folder(tmp_path / "model"), "--noise", "0.1"]) == 2
    assert "--noise is not for sudoku" in capsys.readouterr().err


def test_probes_of_two_models(folders: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--baseline", folders["dit"], "--limit", "100", "--out", str(tmp_path)]
    assert main(["probe", "--checkpoint", folders["ebt"], *options]) == 0
    probes = json.loads((tmp_path / "probe.json").read_text())["probes"]
    assert all(0.15 < probe["top1"] <= probe["top5"] <= 1 for probe in probes.values())
    assert "linear probe on digits: 10 classes" in capsys.readouterr().out


def test_models_of_different_sizes_are_not_compared(folders: dict[str, str], tmp_path: Path) -> None:
    from small_images import image_ebt

    from ebt.problems.folder import save_folder

    other = str(save_folder(image_ebt(image_size=8), tmp_path / "other"))
    for command in ("think", "probe"):
        assert main([command, "--checkpoint", folders["ebt"], "--baseline", other, "--data", folders["photos"]]) == 2
