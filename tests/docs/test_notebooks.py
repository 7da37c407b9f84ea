"""The notebooks of the site run, and what they say of their results holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

START = Path(__file__).parents[2] / "docs" / "start"
NOTEBOOKS = sorted(START.glob("*.ipynb"))


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the code of a notebook in an empty folder, and returns its variables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))

    def execute(name: str) -> dict[str, Any]:
        variables: dict[str, Any] = {"__name__": "__main__"}
        for cell in read(START / f"{name}.ipynb")["cells"]:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), f"{name}.ipynb", "exec"), variables)
        return variables

    return execute


@pytest.mark.slow
def test_first_thoughts(run: Any) -> None:
    seen = run("first-thoughts")
    solved = [bool(seen["is_solved"](board, seen["given"], size=6)) for board in seen["boards"]]
    lowest = seen["energies"][-1].argsort()[:2]
    assert sum(solved) == 2
    assert all(solved[i] for i in lowest)
    assert seen["curve"].at(16, 4).exact > 0.9
    assert seen["curve"].at(4, 1).exact < 0.5


@pytest.mark.slow
def test_an_energy_of_your_own(run: Any) -> None:
    seen = run("own-energy")
    assert seen["error"] < 0.06
    assert seen["wrong"][1].mean() > 5 * seen["right"][1].mean()
    assert 0.35 < seen["higher"] < 0.65


@pytest.mark.slow
def test_your_own_text(run: Any) -> None:
    seen = run("own-text")
    assert seen["exist"] > 0.8 * len(seen["words"])
    energies = dict(enumerate(seen["found"].energies[-1]))
    assert min(energies[i] for i in (4, 10)) > max(energies[i] for i in (5, 6, 8, 11, 12))  # first letters of words, and others
    assert Path("runs/fables/model/config.json").is_file()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_small_and_show_their_results(path: Path) -> None:
    cells = [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]
    assert path.stat().st_size < 60_000
    assert all(cell["outputs"] for cell in cells if "print(" in "".join(cell["source"]))
    assert {output["output_type"] for cell in cells for output in cell["outputs"]} <= {"stream", "display_data"}
