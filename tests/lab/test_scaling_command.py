"""``ebt scaling``: its help, and what users get wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ebt.cli.main import main
from ebt.lab.scaling import AXES, TASKS


def test_help_has_an_example_and_waits_for_nothing() -> None:
    program = (
        "import sys\nfrom ebt.cli.main import main\n"
        "try: main(['scaling', '--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "False"
    assert "example:\n  ebt scaling --axis" in done.stdout
    assert all(f"\n  {axis} " in done.stdout for axis in AXES)
    assert all(task in done.stdout for task in TASKS)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "the following arguments are required: --axis"),
        (["--axis", "size"], "'size' is not one of data, batch, depth, width, parameters, flops"),
        (["--axis", "width", "--task", "music"], "invalid choice: 'music'"),
        (["--axis", "width", "--recipes", "s3"], "'s3' is not one of own, s1, s2"),
        (["--axis", "width", "--seeds", "0"], "'0' is not an integer of at least 1"),
        (["--axis", "width,depth", "--grid", "g.yaml"], "--grid is for one axis, but --axis has 2"),
        (["--axis", "width", "--grid", "none.yaml"], "--grid none.yaml cannot be read"),
        (["--axis", "width", "--grid", "g.yaml"], "--grid g.yaml: there is no field 'wide'"),
        (["--axis", "width", "--train", "none.txt"], "none.txt"),
        (["--axis", "width", "--train", "short.txt"], "too few"),
        (["--axis", "width", "--out", "g.yaml"], "--out g.yaml cannot be created"),
    ],
)
def test_what_is_wrong_is_told_before_work_starts(
    arguments: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "g.yaml").write_text("wide: 3\n")
    (tmp_path / "short.txt").write_text("too short\n\n")
    monkeypatch.chdir(tmp_path)
    assert main(["scaling", *arguments]) == 2
    assert reason in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json"))


def test_a_wrong_array_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "7")
    assert main(["scaling", "--axis", "width"]) == 2
    assert "SLURM_ARRAY_TASK_ID is set, but SLURM_ARRAY_TASK_COUNT" in capsys.readouterr().err
