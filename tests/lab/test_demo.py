"""The demo as a user runs it, with a few updates instead of many."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
from here import no_pool

from ebt.cli.main import main
from ebt.lab.demo.jobs import Settings


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a quick demo, and what it printed."""
    out = tmp_path_factory.mktemp("demo") / "out"
    few = Settings(3, sudoku_updates=2, sudoku_puzzles=8, sudoku_tests=3, sudoku_verified=3, text_updates=2, text_contexts=2)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.setattr("ebt.lab.demo.run.pool", no_pool)  # a real one: see the studies
        patch.setattr(Settings, "quick", lambda seed: replace(few, seed=seed))
        assert main(["demo", "--quick", "--processes", "2", "--out", str(out), "--seed", "3"]) == 0
    return out, printed.getvalue()


def test_results_have_every_number(demo: tuple[Path, str]) -> None:
    results = json.loads((demo[0] / "results.json").read_text())
    steps = {"1", "2", "3", "4", "8", "16", "32"}
    for name in ("sudoku", "sudoku_verified", "sudoku_looped", "sudoku_looped_equal_time"):
        assert results[name].keys() == {"17", "12", "10"}
        for by_steps in results[name].values():
            assert by_steps.keys() == steps
            assert all(0 <= point[key] <= 1 for point in by_steps.values() for key in ("exact", "cell"))
    for name in ("sudoku_feedforward", "sudoku_feedforward_equal_time"):
        assert all(0 <= results[name][givens][key] <= 1 for givens in ("17", "12", "10") for key in ("exact", "cell"))
    text = results["text"]
    assert text["ebt"].keys() == {"1", "2", "3", "4", "8", "12"}
    rivals = text["transformer_pp"], text["transformer_pp_equal_time"]
    assert all(0 < nats < 10 for nats in (*text["ebt"].values(), *rivals))
    assert results["seeds"] == [3]
    assert results["versions"].keys() >= {"python", "torch", "lightning", "transformers"}


TWINS = {
    "sudoku-ebt": ("sudoku-feed-forward", "sudoku-looped"),
    "text-ebt": ("text-transformer-pp",),
}


def test_twins_are_as_large_as_the_ebts(demo: tuple[Path, str]) -> None:
    sizes = json.loads((demo[0] / "results.json").read_text())["parameters"]
    for ebt, twins in TWINS.items():
        for twin in (name + how for name in twins for how in ("", "-equal-time")):
            assert abs(sizes[twin] / sizes[ebt] - 1) < 0.02


def test_each_twin_has_the_updates_of_its_ebt_and_its_time(demo: tuple[Path, str]) -> None:
    results = json.loads((demo[0] / "results.json").read_text())
    updates, seconds = results["updates"], results["train_seconds"]
    for ebt, twins in TWINS.items():
        for twin in twins:
            assert updates[twin] == updates[ebt]
            last = seconds[f"{twin}-equal-time"] / updates[f"{twin}-equal-time"]  # of the update that ends it
            spent = seconds[f"{twin}-equal-time"]
            assert 0.9 * seconds[ebt] <= spent < seconds[ebt] + 5 + 2 * last  # and what is around the updates


def test_models_carry_how_they_think_best(demo: tuple[Path, str]) -> None:
    results = json.loads((demo[0] / "results.json").read_text())
    boards, text = (json.loads((demo[0] / "models" / name / "config.json").read_text()) for name in ("sudoku-ebt", "text-ebt"))
    boards, text = boards["thinking"], text["thinking"]
    assert (boards["steps"], boards["candidates"]) == (32, 8)
    assert (boards["step_size_scale"], boards["noise"]) == (0.35, 0.3)
    assert text["steps"] == results["text"]["best_steps"]


def test_report_holds_its_pictures(demo: tuple[Path, str]) -> None:
    page = (demo[0] / "report.html").read_text()
    pictures = sorted(path.name for path in demo[0].glob("*.png"))
    assert page.count("data:image/png;base64,") == len(pictures) == 7
    assert "http" not in page.replace("data:image", "")  # nothing is loaded from elsewhere


def test_report_fits_a_narrow_page(demo: tuple[Path, str]) -> None:
    page = (demo[0] / "report.html").read_text()
    assert page.count('<div class="scroll"><table>') == page.count("<table>") == 5
    assert ".scroll { overflow-x: auto" in page
    assert "img { max-width: 100%" in page


def test_terminal_shows_tables_and_what_comes_next(demo: tuple[Path, str]) -> None:
    rivals = (f"{name}, equal {what}" for name in ("looped transformer", "feed-forward twin") for what in ("updates", "time"))
    rows = ("Energy-Based Transformer", *rivals, "Transformer++, equal updates", "Transformer++, equal time")
    for words in (*rows, "sudoku-feed-forward-equal-time", "report.html", "ebt solve"):
        assert words in demo[1]


def test_out_must_not_be_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("")
    assert main(["demo", "--quick", "--out", str(tmp_path / "taken")]) == 2
    assert "choose another folder" in capsys.readouterr().err
