"""Another package brings a problem, a geometry, an update and a stop; the ordinary commands train and think with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forked import begin

OUTSIDE = Path(__file__).parents[1] / "outside"
PROGRAM = """
import json, sys
from ebt.cli.main import main
sys.exit(max(main(arguments) for arguments in json.loads(sys.argv[1])))
"""


def ebt(folder: Path, *commands: list[str]) -> str:
    """Run commands in a process that finds the other package."""
    arguments = ("-c", PROGRAM, json.dumps(commands))
    return begin(*arguments, env={"COLUMNS": "160"}, cwd=folder, path=[OUTSIDE]).ended(240, check=True).stdout


QUICK = ["--model.network.layers=1", "--model.optimisation.lr=0.01", "--trainer.max_steps=80"]
FIT = ["fit", "--config", "colouring/ebt", *QUICK, "--trainer.enable_progress_bar=false", "--loggers=[csv]"]


def right(folder: Path) -> dict[tuple[int, int], float]:
    (curve,) = json.loads((folder / "thinking.json").read_text())["curves"].values()
    return {(point["steps"], point["candidates"]): point["right"] for point in curve["points"]}


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        ["--model.network.space=colouring.pieces.Sharp", "--model.network.update=colouring.pieces.Fading(0.3)"],
        ["--model.network.update=momentum(0.5)"],
    ],
    ids=["its own", "geometry and update of the package", "an update with a memory"],
)
def test_a_problem_of_another_package(pieces: list[str], tmp_path: Path) -> None:
    think = ["think", "--checkpoint", "runs/graphs", "--steps", "1,4", "--candidates", "1,4", "--out", "think"]
    stopped = [*think[:-1], "stopped", "--stop", "colouring.pieces.Sure(0.4)"]
    shown = ebt(tmp_path, [*FIT, "--name", "graphs", *pieces], ["validate", "--checkpoint", "runs/graphs"], think, stopped)
    assert "% of nodes in their colour" in shown
    assert right(tmp_path / "think")[4, 1] > 0.5  # a third by chance; the rules, and half of the nodes, are given
    (curve,) = json.loads((tmp_path / "stopped" / "thinking.json").read_text())["curves"].values()
    assert all(point["backward"] < 4 * point["candidates"] for point in curve["points"] if point["steps"] == 4)
    assert {path.name for path in (tmp_path / "think").iterdir()} == {"thinking.json", "thinking.png", "energy.png"}
    saved = json.loads((tmp_path / "runs" / "graphs" / "model" / "config.json").read_text())
    assert saved["model_type"] == "colouring"
    assert saved["update"] == (pieces[-1].partition("update=")[2] if pieces else None)
