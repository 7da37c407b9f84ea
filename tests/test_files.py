"""Files are whole or absent, whatever goes wrong while they are written."""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from pathlib import Path
from typing import BinaryIO

import pytest
from small_models import full_disk

from ebt.evaluation.style import picture
from ebt.files import put, write_json, write_text, write_whole


def test_the_former_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    for content in (b"old", b"new"):
        before = path.read_bytes() if path.exists() else None
        with write_whole(path) as file:
            file.write(content)
            assert (path.read_bytes() if path.exists() else None) == before
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def _fail(file: BinaryIO, error: type[BaseException]) -> None:
    file.write(b"half")
    raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_no_trace(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    write_text("old", path)
    with pytest.raises(error), write_whole(path) as file:
        _fail(file, error)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text("old", path)
    with full_disk(1000), pytest.raises(OSError):
        write_text("new" * 10_000, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def made(path: Path, folder: bool) -> Path:
    """A file with its own name as content, or a folder with such a file."""
    if folder:
        path.mkdir()
    write_text(path.name, path / "content" if folder else path)
    return path


def content(path: Path) -> str:
    return (path / "content" if path.is_dir() else path).read_text()


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("former", [True, False, None])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_file_or_folder_takes_the_place_of_another(
    fresh: bool, former: bool | None, at_once: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With names that are exchanged at once, where the system can, and without."""
    if not at_once:
        monkeypatch.setattr(sys, "platform", "other")
    elif former is not None and sys.platform == "linux":
        monkeypatch.delattr(Path, "rename")  # so there is no moment without the target
    target = tmp_path / "target"
    if former is not None:
        made(target, former)
    put(made(tmp_path / "fresh", fresh), target)
    assert content(target) == "fresh"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("platform", [sys.platform, "other"])
def test_what_cannot_be_put_leaves_the_former(platform: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    target = made(tmp_path / "target", folder=True)
    with pytest.raises(OSError):
        put(tmp_path / "missing", target)
    assert content(target) == "target"
    assert list(tmp_path.iterdir()) == [target]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_text("x", tmp_path / "missing" / "a.txt")
    with pytest.raises(IsADirectoryError):
        write_text("x", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target.txt", tmp_path / "link.txt"
    write_text("old", target)
    link.symlink_to(target)
    write_text("new", link)
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_pipe_is_written_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_text("through", pipe)
    reader.join(timeout=10)
    assert read == ["through"]
    assert pipe.is_fifo()


def test_json_is_strict(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json({"a": math.nan, "b": (1, math.inf), "c": {"d": -math.inf}}, path)
    assert json.loads(path.read_text()) == {"a": None, "b": [1, None], "c": {"d": None}}
    with pytest.raises(TypeError):
        write_json({"a": object()}, path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_picture_that_fails_leaves_the_former_one(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with picture(path, 1, 1) as figure:
        figure.subplots()
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), picture(path, 1, 1) as figure:
        figure.text(0, 0, str(1 / 0))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
