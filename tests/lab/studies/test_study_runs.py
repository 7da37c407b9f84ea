"""Runs: kept, found again, refused when broken, side by side, and going on after an interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ebt.errors import InputError
from ebt.lab.studies.pool import Report
from ebt.lab.studies.runs import Json, Run, collect, load


def square(settings: Json, places: Json, report: Report) -> dict[str, Any]:
    """A run's work: counts its calls beside its answer."""
    report(1, 2, "half")
    calls = Path(places["calls"]) / f"{settings['n']}"
    calls.write_text(calls.read_text() + "x" if calls.exists() else "x")
    if settings["n"] == 13:
        raise InputError("13 is no number: choose another.")
    if places.get("slow"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a training has an answer of its own
        (Path(places["calls"]).parent / "process").write_text(str(os.getpid()))
        time.sleep(0.2 if settings["n"] == 0 else 60)
    return {"square": settings["n"] ** 2, "process": os.getpid(), "unknown": float("nan")}


def runs(folder: Path, *numbers: int, slow: bool = False) -> list[Run]:
    (folder / "calls").mkdir(exist_ok=True)
    places = {"calls": str(folder / "calls"), "slow": slow}
    return [Run(f"square {n}", square, {"n": n}, folder / "raw", places) for n in numbers]


def calls(folder: Path) -> dict[str, int]:
    return {path.name: len(path.read_text()) for path in (folder / "calls").iterdir()}


def quiet() -> Console:
    return Console(quiet=True)


def test_runs_are_made_once_side_by_side_and_not_in_this_process(tmp_path: Path) -> None:
    first, second = runs(tmp_path, 1, 2), runs(tmp_path, 3, 1)
    found = collect([first, second], 2, quiet())
    assert [found[run.key].values["square"] for run in (*first, *second)] == [1, 4, 9, 1]
    assert found[first[0].key].values["unknown"] is None  # JSON has no NaN
    assert os.getpid() not in {result.values["process"] for result in found.values()}
    assert found[first[0].key].machine["versions"].keys() >= {"python", "torch"}
    again = collect([runs(tmp_path, 1, 2, 3)], 1, quiet())
    assert {key: again[key] for key in found} == found
    assert calls(tmp_path) == {"1": 1, "2": 1, "3": 1}  # none a second time; one named twice once


def test_what_a_run_finds_wrong_is_told_and_the_others_are_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="13 is no number"):
        collect([runs(tmp_path, 4, 13, 5)], 1, quiet())
    assert [load(run) is not None for run in runs(tmp_path, 4, 13, 5)] == [True, False, True]


def test_other_settings_are_another_run(tmp_path: Path) -> None:
    one, other = runs(tmp_path, 1)[0], Run("square 1", square, {"n": 1, "more": True}, tmp_path / "raw")
    assert one.path != other.path


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"settings": {}}', '{"settings": {"n": 2}, "values": {}, "seconds": 1, "machine": {}}',
     '{"settings": {"n": 1}, "values": 3, "seconds": 1, "machine": {}}'],
)  # fmt: skip
def test_a_broken_file_is_refused_by_its_name(text: str, tmp_path: Path) -> None:
    (run,) = runs(tmp_path, 1)
    run.folder.mkdir()
    run.path.write_text(text)
    with pytest.raises(InputError, match=rf"{run.path.name} is not a result of this run .*delete it"):
        collect([[run]], 1, quiet())


def model_of(folder: Path, number: int, *measured: int) -> list[list[Run]]:
    """A run that leaves a product, and those that need it."""
    (folder / "calls").mkdir(exist_ok=True)
    places = {"calls": str(folder / "calls"), "model": str(folder / f"model {number}")}
    product = folder / f"model {number}" / "made"
    model = Run(f"model {number}", square, {"n": number}, folder / "raw", places, product)
    return [[model], [Run(f"of {number}: {n}", square, {"n": n}, folder / "raw", places) for n in measured]]


def test_a_product_that_is_gone_is_made_again_only_if_it_is_needed(tmp_path: Path) -> None:
    first, second = model_of(tmp_path, 1, 2, 3), model_of(tmp_path, 4, 5)
    collect([*first, *second], 2, quiet())
    assert calls(tmp_path) == {"1": 1, "2": 1, "3": 1, "4": 1, "5": 1}
    collect([*first, *second], 2, quiet())  # all results are there, and nobody needs what they were made of
    assert calls(tmp_path) == {"1": 1, "2": 1, "3": 1, "4": 1, "5": 1}
    first = model_of(tmp_path, 1, 2, 3, 6)
    collect([*first, *second], 2, quiet())  # one more: the model anew, and all that is of it
    assert calls(tmp_path) == {"1": 2, "2": 2, "3": 2, "4": 1, "5": 1, "6": 1}


def test_what_was_made_is_measured_before_more_is_made_and_what_could_not_be_made_never(tmp_path: Path) -> None:
    first, failing, second = model_of(tmp_path, 1, 2), model_of(tmp_path, 13, 3), model_of(tmp_path, 4, 5)
    stages = [[one[stage][0] for one in (first, failing, second)] for stage in (0, 1)]
    with pytest.raises(InputError, match="13 is no number"):
        collect(stages, 1, quiet())
    made = sorted((tmp_path / "calls").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert [path.name for path in made] == ["1", "2", "13", "4", "5"]


def test_a_product_that_is_there_serves_further_runs(tmp_path: Path) -> None:
    first = model_of(tmp_path, 1, 2)
    collect(first, 1, quiet())
    (tmp_path / "model 1").mkdir()
    (tmp_path / "model 1" / "made").touch()
    collect(model_of(tmp_path, 1, 2, 3), 1, quiet())
    assert calls(tmp_path) == {"1": 1, "2": 1, "3": 1}


def begun(tmp_path: Path) -> subprocess.Popen[str]:
    """A study in a process of its own, which has finished its first run and is at work on the second."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import test_study_runs as t\n"
        "if __name__ == '__main__':\n"
        "    t.collect([t.runs(Path(sys.argv[2]), 0, 1, slow=True)], 1, t.quiet())"
    )
    (tmp_path / "program.py").write_text(program)
    command = [sys.executable, str(tmp_path / "program.py"), str(Path(__file__).parent), str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until = time.monotonic() + 120
    while "1" not in calls(tmp_path) if (tmp_path / "calls").exists() else True:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < until
        time.sleep(0.1)
    return process


def is_gone(process: int) -> bool:
    """Whether a process has ended within some seconds, be it that nobody has asked for its exit code."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        status = Path(f"/proc/{process}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)])
def test_processes_of_a_study_that_is_ended_end_with_it(tmp_path: Path, number: int, code: int) -> None:
    """It alone gets the signal."""
    process = begun(tmp_path)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == code
    assert is_gone(int((tmp_path / "process").read_text()))
    assert [path.name for path in (tmp_path / "raw").glob("*")] == [runs(tmp_path, 0)[0].path.name]


def test_an_interrupted_study_goes_on(tmp_path: Path) -> None:
    process = begun(tmp_path)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: to all of them
    _, error = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in error
    assert process.returncode != 0
    assert [path.name for path in (tmp_path / "raw").glob("*")] == [runs(tmp_path, 0)[0].path.name]

    found = collect([runs(tmp_path, 0, 1)], 1, quiet())
    assert sorted(result.values["square"] for result in found.values()) == [0, 1]
    assert calls(tmp_path) == {"0": 1, "1": 2}
    assert json.loads(runs(tmp_path, 1)[0].path.read_text())["settings"] == {"n": 1}
