"""The benchmark of training curves: tiny runs, both ways, resumed and compared."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import curves
import pytest

from ebt.errors import InputError
from ebt.lab.studies import runs


class Here(Executor):
    """Runs everything at once in this process, which has imported what takes seconds."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        done = Future[Any]()
        done.set_result(fn(*args, **kwargs))
        return done


@contextmanager
def here(*_: Any) -> Iterator[Any]:
    yield Here(), queue.Queue()


def test_it_trains_compares_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "pool", here)
    options = ["--quick", "--seeds=2", f"--out={tmp_path}", f"--json={tmp_path / 'all.json'}", "--only", "boards", "frames"]
    assert curves.main(options) == 0
    first = capsys.readouterr().out
    results = json.loads((tmp_path / "all.json").read_text())["results"]
    assert [(one["case"], one["score"]) for one in results] == [
        ("boards", "loss"),
        ("boards", "exact"),
        ("boards", "cells"),
        ("frames", "loss"),
    ]
    for one in results:
        exact, central = one["exact"]["values"], one["central"]["values"]
        assert one["differences"] == pytest.approx([b - a for a, b in zip(exact, central, strict=True)])
        assert one["largest gap of training losses"] < 1e-3
        assert one["within the spread"]
    assert results[0]["spread"] > 0
    next(tmp_path.glob("boards-central-1-*.json")).unlink()
    assert curves.main(options) == 0
    second = capsys.readouterr().out
    assert "7 of them finished before" in second
    assert first.count("within") == second.count("within") == 4


def test_a_case_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no case .poems. of gradients: choose from text S1"):
        curves.main([f"--out={tmp_path}", "--only", "poems"])


def test_the_input_side_of_the_table_is_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "pool", here)
    options = ["--compare=table", "--quick", "--seeds=1", f"--out={tmp_path}", f"--json={tmp_path / 'all.json'}"]
    assert curves.main([*options, "--only", "text own"]) == 0
    assert "detached over exact" in " ".join(capsys.readouterr().out.split())
    (one,) = json.loads((tmp_path / "all.json").read_text())["results"]
    assert one["exact"]["values"] != one["detached"]["values"]
    with pytest.raises(InputError, match="no case 'boards' of table"):
        curves.main([*options, "--only", "boards"])


def test_energies_that_judge_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "pool", here)
    options = ["--compare=ranking", "--quick", "--seeds=1", f"--out={tmp_path}", f"--json={tmp_path / 'all.json'}"]
    assert curves.main([*options, "--only", "frames"]) == 0
    loss, correlation = json.loads((tmp_path / "all.json").read_text())["results"]
    assert (loss["score"], correlation["score"]) == ("loss", "correlation")
    assert loss["free"]["values"] != loss["ranked"]["values"]
    assert -1 <= correlation["ranked"]["mean"] <= 1
