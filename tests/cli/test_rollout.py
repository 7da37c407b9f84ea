"""``ebt rollout`` and ``ebt think`` for videos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_models import SIZES, sudoku_folder
from small_videos import COLOUR, CONTEXT, clip_folder, dinov2, video_folder

from ebt.cli.main import main
from ebt.cli.rollout import KNOWN
from ebt.problems.folder import load_folder, save_folder
from ebt.problems.video.clips import open_videos
from ebt.problems.video.configuration import EBTVideoConfig
from ebt.problems.video.models import EBTForVideo

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "video"
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = tmp_path_factory.mktemp("models")
    return {
        "ebt": video_folder(path / "ebt"),
        "twin": video_folder(path / "twin", twin=True),
        "colour": video_folder(path / "colour", encoding=COLOUR),
        "unknown": video_folder(path / "unknown", encoding=None),
        "clips": clip_folder(path / "clips", 2, 10),
    }


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_rollout_with_pictures_films_and_numbers(folders: dict[str, str], tmp_path: Path, capsys: Captured) -> None:
    options = ["--frames", "3", "--given", "6", "--limit", "2", "--steps", "2", "--candidates", "2", "--mp4"]
    assert main(["rollout", "--checkpoint", folders["ebt"], "--data", "digits", *options, "--out", str(tmp_path)]) == 0
    read = json.loads((tmp_path / "rollout.json").read_text())
    assert (read["given"], read["ahead"], read["steps"], read["candidates"]) == (6, 3, 2, 2)
    assert all(-1 <= read[name] <= 1 for name in KNOWN)
    clip = read["clips"][1]
    assert (len(clip["losses"]), len(clip["repeated"]), np.shape(clip["energies"])) == (3, 3, (3, 3))
    assert (np.shape(clip["watched_energies"]), np.shape(clip["watched_losses"])) == ((3, 8), (2, 8))
    with Image.open(tmp_path / "rollout-01.gif") as film:
        assert (film.n_frames, film.info["duration"]) == (9, 250)  # type: ignore[attr-defined]
        assert min(film.size) > 160
        size = film.size
    assert len(open_videos(str(tmp_path / "rollout-01.mp4"), 64).read(0)) == 9
    assert size[0] > size[1]
    for name in ("rollout-00.png", "rollout-01-energy.png"):
        assert np.array(Image.open(tmp_path / name)).shape[1] > 500
    out = capsys.readouterr().out
    assert "3 frames after 6 given ones, 2 clips" in out
    assert "Spearman" in out


def test_a_twin_rolls_out_without_energies(folders: dict[str, str], tmp_path: Path, capsys: Captured) -> None:
    options = ["--data", "digits", "--frames", "2", "--limit", "1", "--split", "shifted", "--out", str(tmp_path)]
    assert main(["rollout", "--checkpoint", folders["twin"], *options]) == 0
    assert sorted(path.name for path in tmp_path.glob("roll*")) == ["rollout-00.gif", "rollout-00.png", "rollout.json"]
    assert "energy" not in capsys.readouterr().out
    for option in (["--steps", "3"], ["--candidates", "2"], ["--rule", "lowest"]):
        assert main(["rollout", "--checkpoint", folders["twin"], "--data", "digits", *option]) == 2
        assert "Transformer++ answers in one pass" in capsys.readouterr().err


def test_videos_of_ones_own(folders: dict[str, str], tmp_path: Path, capsys: Captured) -> None:
    arguments = ["--checkpoint", folders["colour"], "--data", folders["clips"], "--frames", "3"]
    assert main(["rollout", *arguments, "--out", str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("*.gif"))) == 4
    assert "held-out quality only if" in capsys.readouterr().out
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"nothing")
    assert main(["rollout", "--checkpoint", folders["colour"], "--data", str(broken)]) == 2
    assert "broken.mp4 cannot be read as a video" in capsys.readouterr().err


def test_a_short_video_serves_fewer_frames(folders: dict[str, str], tmp_path: Path, capsys: Captured) -> None:
    short = clip_folder(tmp_path / "short", 1, frames=3, first=30)
    assert main(["rollout", "--checkpoint", folders["colour"], "--data", short, "--given", "2", "--frames", "1"]) == 0
    assert main(["rollout", "--checkpoint", folders["colour"], "--data", short, "--frames", "1"]) == 2
    assert "has 3 frames, but 5 are needed" in capsys.readouterr().err


def test_an_encoder_that_cannot_decode_gives_numbers(tmp_path: Path, capsys: Captured) -> None:
    encoding = {"encoder": dinov2(tmp_path / "dino"), "size": 12, "channels": 1, "seconds": 0.25}
    config = EBTVideoConfig(**SIZES, frame_dim=12, context_length=CONTEXT, encoding=encoding)
    model = str(save_folder(EBTForVideo(config), tmp_path / "model"))
    arguments = [
        "rollout",
        "--checkpoint",
        model,
        "--data",
        "digits",
        "--frames",
        "2",
        "--limit",
        "1",
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(arguments) == 2
    assert "cannot be turned back into pictures: add --no-pictures" in capsys.readouterr().err
    assert main([*arguments, "--no-pictures"]) == 0
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["rollout-00-energy.png", "rollout.json"]


def test_a_run_knows_its_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.chdir(tmp_path)
    config = "video/ebt"
    network = ["--model.network.layers=1", "--model.network.dim=16", "--model.network.heads=2", "--model.network.ffn_dim=16"]
    data = ["--data.size=12", "--data.clips=8", "--data.evaluation_clips=4", "--data.context_length=4", "--data.batch_size=4"]
    trained = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--name=digits"]
    assert main(["fit", f"--config={config}", *network, *data, *trained]) == 0
    assert "8 clips (4 for validation)" in capsys.readouterr().out
    assert isinstance(load_folder("runs/digits", "ebt_video"), EBTForVideo)
    assert main(["validate", "--checkpoint=runs/digits"]) == 0
    assert main(["test", "--checkpoint=runs/digits"]) == 0
    assert "shifted/loss" in str(json.loads(Path("runs/digits/results.json").read_text())["test"])
    assert main(["think", "--checkpoint=runs/digits", "--limit=4", "--split=validation"]) == 0
    assert "validation videos of digits: 16 frames" in capsys.readouterr().out
    assert main(["rollout", "--checkpoint=runs/digits", "--limit=1", "--frames=2"]) == 0
    assert "test videos of digits: 2 frames after 4 given ones" in capsys.readouterr().out


def test_thinking_curves_of_frames(folders: dict[str, str], tmp_path: Path, capsys: Captured) -> None:
    arguments = ["--checkpoint", folders["ebt"], "--baseline", folders["twin"], "--data", "digits", "--limit", "5"]
    assert main(["think", *arguments, "--steps", "1,3", "--candidates", "1,2", "--out", str(tmp_path)]) == 0
    read = json.loads((tmp_path / "thinking.json").read_text())
    points = {
        name: [(point["steps"], point["candidates"]) for point in curve["points"]] for name, curve in read["curves"].items()
    }
    assert points == {"ebt": [(1, 1), (1, 2), (3, 1), (3, 2)], "twin": [(1, 1)]}
    for name in ("thinking.png", "energy.png"):
        assert np.array(Image.open(tmp_path / name)).shape[1] > 500
    out = capsys.readouterr().out
    assert "digits: 20 frames" in out
    assert "repeating the last frame" in out


@pytest.mark.parametrize(
    ("command", "model", "options", "message"),
    [
        ("rollout", "ebt", [], "is not part of a run folder"),
        ("rollout", "unknown", ["--data", "digits"], 'add "encoding" to its config.json'),
        ("rollout", "ebt", ["--data", "nowhere.mp4"], "nowhere.mp4 does not exist"),
        ("rollout", "colour", ["--data", "CLIPS", "--frames", "9"], "frames, but 13 are needed"),
        ("rollout", "colour", ["--data", "CLIPS", "--split", "shifted"], "harder test of moving digits"),
        ("rollout", "ebt", ["--data", "digits", "--mp4"], "--mp4 writes files: give --out"),
        ("rollout", "ebt", ["--data", "digits", "--frames", "0"], "not an integer of at least 1"),
        ("think", "ebt", ["--data", "digits", "--givens", "3"], "--givens is not for video"),
        ("think", "ebt", ["--data", "digits", "--rule", "majority"], "--rule majority is not for video"),
        ("think", "ebt", ["--data", "digits", "--noise", "0.1"], "--noise is not for video"),
        ("think", "ebt", ["--data", "digits", "--baseline", "COLOUR"], "the encoder of frames"),
    ],
)
def test_what_makes_no_sense_is_told(
    command: str, model: str, options: list[str], message: str, folders: dict[str, str], capsys: Captured
) -> None:
    named = {"CLIPS": folders["clips"], "COLOUR": folders["colour"]}
    assert main([command, "--checkpoint", folders[model], *(named.get(option, option) for option in options)]) == 2
    assert message in capsys.readouterr().err


def test_other_models_are_refused(tmp_path: Path, capsys: Captured) -> None:
    board = sudoku_folder(tmp_path / "model")
    assert main(["rollout", "--checkpoint", board]) == 2
    assert "ebt_sudoku" in capsys.readouterr().err
    assert main(["think", "--checkpoint", board, "--split", "shifted"]) == 2
    assert "--split shifted is not for sudoku" in capsys.readouterr().err


@pytest.mark.skipif(not DATA.exists(), reason="needs the benchmark data beside the checkout: shared/data/video")
def test_real_clips_roll_out(folders: dict[str, str], tmp_path: Path, capsys: Captured) -> None:
    arguments: list[Any] = ["--checkpoint", folders["colour"], "--data", str(DATA), "--frames", "4", "--limit", "2", "--mp4"]
    assert main(["rollout", *arguments, "--out", str(tmp_path / "out")]) == 0
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == [f"rollout-{i:02}{end}" for i in range(2) for end in ("-energy.png", ".gif", ".mp4", ".png")] + [
        "rollout.json"
    ]
    assert len(list((tmp_path / "cache" / "ebt" / "frames").iterdir())) == 2
    assert "4 frames after 4 given ones, 2 clips" in capsys.readouterr().out
