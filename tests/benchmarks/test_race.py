"""Contestants run in processes of their own that need not import what all of them need."""

from __future__ import annotations

import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import race

BENCHMARKS = Path(race.__file__).parent
PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import race
race.PRELOAD.clear()  # it is quicker without

def turn(): pass
def make(): return turn, turn

if __name__ == "__main__":
    print(*race.race([race.Contestant("own", make)], 1, 1))
"""


def make(wanted: list[str]) -> tuple[race.Turn, race.Turn]:
    missing = [name for name in wanted if name not in sys.modules]
    if missing:
        raise ImportError(f"not imported beforehand: {missing}")
    return turn, turn


def turn() -> None:
    sum(range(100_000))


def test_what_takes_seconds_to_import_is_there_before_a_contestant_is_made() -> None:
    heavy = [*race.PRELOAD, "torch", "lightning", "transformers", "torch._dynamo"]
    found = race.race([race.Contestant("light", partial(make, heavy))], 2, 1)["light"]
    assert 0 < found.cpu_seconds < 1
    assert found.seconds > 0
    with pytest.raises(RuntimeError, match="the process of odd has ended"):
        race.race([race.Contestant("odd", partial(make, ["no.such.module"]))], 1, 1)


def test_a_program_races_functions_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py", BENCHMARKS], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "own\n"


@pytest.mark.parametrize(
    "name", ["curves", "denoising", "generate", "kill", "memory", "second_order", "stability", "think", "train"]
)
def test_every_benchmark_is_a_program(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")
    assert not ended.value.code
    assert "usage" in capsys.readouterr().out
