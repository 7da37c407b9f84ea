"""Files are whole or absent, whatever goes wrong while they are written."""

from __future__ import annotations

import json
import math
import os
import threading
from pathlib import Path
from typing import BinaryIO

import pytest
from small_models import full_disk

from ebt.evaluation.style import picture
from ebt.files import write_json, write_text, write_whole


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
