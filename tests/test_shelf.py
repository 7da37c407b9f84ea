"""Bundled models are found by name, in each place where they can be."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from forked import program
from small_models import close, sudoku_ebt, sudoku_folder

import ebt
from ebt import shelf
from ebt.cli.main import main
from ebt.errors import InputError
from ebt.problems.folder import load_folder
from ebt.problems.registry import MODELS, models

ROOT = Path(__file__).parents[1]
PUZZLE = "...31..44..1...."


class Handler(SimpleHTTPRequestHandler):
    """A release without a log. It cuts files named in ``cut`` in the middle."""

    cut: frozenset[str] = frozenset()

    def log_message(self, *_: Any) -> None: ...

    def copyfile(self, source: Any, outputfile: Any) -> None:
        data = source.read()
        outputfile.write(data[: len(data) // 2] if Path(self.path).name in self.cut else data)


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a release at a local address, with the model ``tiny``, which is nowhere else."""
    folder = tmp_path / "release"
    folder.mkdir()
    made = Path(sudoku_folder(tmp_path / "made"))
    with zipfile.ZipFile(folder / "tiny.zip", "w") as archive:
        for file in made.iterdir():
            archive.write(file, file.name)
    data = (folder / "tiny.zip").read_bytes()
    entry = shelf.Shipped("sudoku", 1, len(data), hashlib.sha256(data).hexdigest(), "none")
    monkeypatch.setattr(shelf, "shelf", lambda: {"tiny": entry})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("EBT_MODELS_URL", f"http://127.0.0.1:{server.server_port}")
    yield folder
    server.shutdown()
    server.server_close()


def cached(tmp_path: Path) -> list[str]:
    folder = tmp_path / "cache" / "ebt" / "models"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_a_model_is_downloaded_once(release: Path, tmp_path: Path) -> None:
    assert shelf.where("tiny")[0] == "download"
    answer = ebt.think("tiny", PUZZLE, steps=3, seed=1).answer
    assert close(answer.tolist(), sudoku_ebt().think(PUZZLE, steps=3, seed=1).answer.tolist())
    assert cached(tmp_path) == ["tiny"]
    assert shelf.where("tiny")[0] == "cache"
    (release / "tiny.zip").unlink()
    assert ebt.load("tiny").config.board == 4


def test_another_archive_is_refused(release: Path, tmp_path: Path) -> None:
    data = bytearray((release / "tiny.zip").read_bytes())
    data[len(data) // 2] ^= 1
    (release / "tiny.zip").write_bytes(data)
    with pytest.raises(InputError, match=r"is not this version's 'tiny' \(SHA-256 .*, not .*pip install \./models"):
        ebt.load("tiny")
    assert cached(tmp_path) == []


def test_an_interrupted_download_leaves_nothing(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handler, "cut", frozenset({"tiny.zip"}))
    with pytest.raises(InputError, match=r"cannot be downloaded \(.*set EBT_MODELS_URL to the address of a release"):
        ebt.load("tiny")
    assert cached(tmp_path) == []
    monkeypatch.setattr(Handler, "cut", frozenset())
    assert ebt.load("tiny").config.board == 4


def test_an_address_that_is_not_reached_is_told(release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.environ["EBT_MODELS_URL"] = "http://127.0.0.1:9"
    assert main(["solve", "--checkpoint", "tiny", PUZZLE]) == 2
    told = capsys.readouterr().err
    for part in (
        "model 'tiny' is not here",
        "http://127.0.0.1:9/tiny.zip",
        "pip install ./models",
        "EBT_MODELS_URL",
        "make.py tiny",
    ):
        assert part in told
    assert cached(tmp_path) == []


def test_without_the_address_of_a_release_the_remedies_are_told(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EBT_MODELS_URL")
    with pytest.raises(InputError, match=r"'tiny' is not here: install the models .*set EBT_MODELS_URL"):
        ebt.load("tiny")


@pytest.mark.parametrize("address", ["not an address", "ftp:/x", "http://127.0.0.1:99999"])
def test_a_wrong_address_is_told(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("EBT_MODELS_URL", address)
    with pytest.raises(InputError, match="cannot be downloaded"):
        ebt.load("tiny")
    assert cached(tmp_path) == []


def test_a_folder_of_that_name_takes_precedence(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (release / "tiny.zip").unlink()
    sudoku_folder(tmp_path / "tiny")
    assert ebt.load("tiny").config.board == 4


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("sudoku-6", "Did you mean 'sudoku-6x6'?"),
        ("poetry", "Bundled models: .*sudoku-6x6"),
        ("runs/sudoku-6x6x", "name of `ebt models`.$"),
    ],
)
def test_unknown_names_get_the_nearest(name: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        load_folder(name)


@pytest.mark.parametrize("name", shelf.shelf())
def test_models_of_the_checkout_think_and_match_their_archive(name: str, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("make_models", ROOT / "models" / "make.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["make_models"] = make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    entry = shelf.shelf()[name]
    archive = make.pack(name, tmp_path)
    assert (archive.stat().st_size, hashlib.sha256(archive.read_bytes()).hexdigest()) == (entry.size, entry.sha256)
    model = ebt.load(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == entry.parameters
    card = (ROOT / "models" / name / "README.md").read_text(encoding="utf-8")
    assert make.MODELS[name].command in card
    assert all(f"## {title}" in card for title in ("Quality", "Training", "Limits"))


def test_models_fit_in_20_megabytes() -> None:
    assert sum(model.size for model in shelf.shelf().values()) < 20e6
    assert {"sudoku-6x6", "sudoku-6x6-twin"} <= set(shelf.shelf())


def test_the_small_solver_solves_by_default() -> None:
    """With the thinking that its folder names, and no options."""
    puzzle = ".5.3..1...26.4..6......2......5.6..."
    answer = ebt.think("sudoku-6x6", puzzle).answer.flatten().tolist()
    assert all(sorted(answer[6 * i : 6 * i + 6]) == list(range(1, 7)) for i in range(6))
    assert all(int(given) == digit for given, digit in zip(puzzle, answer, strict=True) if given.isdigit())


def test_classes_by_type_are_those_of_the_problems() -> None:
    own = {name: kind for name, kind in models().items() if kind.__module__.startswith("ebt.")}
    assert {name: f"ebt.problems.{home}" for name, home in MODELS.items()} == {
        name: f"{kind.__module__}:{kind.__name__}" for name, kind in own.items()
    }


def test_the_command_lists_them(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    for name, model in shelf.shelf().items():
        line = next(line for line in out.splitlines() if line.split()[:1] == [name])
        assert f"{model.parameters:,}" in line
        assert model.quality in line
        assert line.rstrip().endswith("models/")


def test_help_and_list_do_without_torch() -> None:
    code = "import sys; from ebt.cli.main import main; main(['models']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.slow
def test_a_process_solves_by_name() -> None:
    done = program("-m", "ebt.cli.main", "solve", "--checkpoint", "sudoku-6x6", "--givens", "12")
    assert "solved, a valid board" in done.stdout


@pytest.mark.slow
def test_the_wheel_holds_the_models_and_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = pytest.importorskip("hatchling.build", reason="needs hatchling")
    monkeypatch.chdir(ROOT / "models")
    wheel = tmp_path / build.build_wheel(str(tmp_path))
    with zipfile.ZipFile(wheel) as files:
        names = files.namelist()
        files.extractall(tmp_path / "site")
    for name in shelf.shelf():
        held = {Path(file).name for file in names if file.startswith(f"ebt_models/{name}/")}
        assert held == {file.name for file in (ROOT / "models" / name).iterdir() if file.is_file()}
    assert not any(file.endswith("make.py") for file in names)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(shelf, "CHECKOUT", tmp_path / "none")
    assert shelf.where("sudoku-6x6") == ("package", tmp_path / "site" / "ebt_models" / "sudoku-6x6")
    assert ebt.load("sudoku-6x6").config.board == 6


@pytest.mark.parametrize("name", [3, None, [], b"sudoku-6x6", ""])
def test_what_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(InputError, match=f"^name is {re.escape(repr(name))}"):
        ebt.load(name)
