"""The notebooks of the site run, print what they show, and what they say of their results holds."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

START = Path(__file__).parents[2] / "docs" / "start"
NOTEBOOKS = sorted(START.glob("*.ipynb"))
CHANGING = re.compile(r"[\d.]+ updates/s|(?<=\d steps: ).*|#+|[─-]{3,}")
"""What may change from machine to machine: speed, generated text, and bars whose lengths are rounded numbers."""
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?: %)?")


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def differences(shown: str, printed: str) -> list[str]:
    """What a fresh run prints differently: other words, other whole numbers, percentages that are off by more than five points,
    and other numbers that are off by more than a tenth."""
    texts = [" ".join(CHANGING.sub(" ", text).split()) for text in (shown, printed)]
    words = [NUMBER.sub("0", text) for text in texts]
    if words[0] != words[1]:
        return [f"{words[0]!r} is shown, {words[1]!r} printed"]
    pairs = zip(*(NUMBER.findall(text) for text in texts), strict=True)
    return [f"{old} is shown, {new} printed" for old, new in pairs if not _close(old, new)]


def _close(old: str, new: str) -> bool:
    values = [float(text.removesuffix(" %").replace(",", "")) for text in (old, new)]
    percentage, whole = old.endswith("%"), "." not in old + new
    margin = 5 if percentage else 0 if whole else 0.002 + 0.1 * abs(values[0])
    return old.endswith("%") == new.endswith("%") and abs(values[0] - values[1]) <= margin


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the code of a notebook in an empty folder, compares its outputs with those that the notebook shows, and returns its
    variables. Of pictures, the number is compared."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ebt.cli.progress.QUIET_SECONDS", math.inf)  # a slow machine would print lines between validations
    drawn: list[None] = []
    monkeypatch.setattr(plt, "show", lambda: drawn.append(plt.close("all")))

    def execute(name: str) -> dict[str, Any]:
        variables: dict[str, Any] = {"__name__": "__main__"}
        found = []
        for number, cell in enumerate(read(START / f"{name}.ipynb")["cells"]):
            if cell["cell_type"] != "code":
                continue
            drawn.clear()
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile("".join(cell["source"]), f"{name}.ipynb", "exec"), variables)
            shown = "".join("".join(output.get("text", "")) for output in cell["outputs"])
            found += [f"cell {number}: {each}" for each in differences(shown, printed.getvalue())]
            if len(drawn) != sum("image/png" in output.get("data", ()) for output in cell["outputs"]):
                found.append(f"cell {number}: {len(drawn)} pictures are drawn")
        assert found == [], "execute the notebook again, and check what its text says"
        return variables

    return execute


@pytest.mark.parametrize(
    ("shown", "printed", "equal"),
    [
        ("loss 0.3309 24.1 updates/s", "loss 0.3311  3.5 updates/s", True),
        ("loss 0.3309", "loss 0.4", False),
        ("loss 0.3309", "error 0.3309", False),
        ("133,633 parameters", "133,634 parameters", False),
        ("97 % of the words", "94 % of the words", True),
        ("97 % of the words", "90 % of the words", False),
        ("3 steps: the wise fox", "3 steps: the wise bird", True),
        ("3 steps: the wise fox", "4 steps: the wise fox", False),
    ],
)
def test_outputs_are_compared_by_words_and_numbers(shown: str, printed: str, equal: bool) -> None:
    assert (differences(shown, printed) == []) is equal


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
