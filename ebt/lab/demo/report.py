"""The report of the demo: tables in the terminal, pictures, and an HTML page."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ebt.evaluation.curves import energy_curve, thinking_curve
from ebt.files import finite, write_json, write_text
from ebt.lab.demo import jobs
from ebt.problems.folder import load_folder, load_tokenizer_of
from ebt.problems.language.energies import token_energies
from ebt.problems.language.pictures import token_heat_map
from ebt.problems.sudoku.metrics import watch_board
from ebt.problems.sudoku.pictures import board_strip

TEXT = "Return the sum of all items in the list."
"""Text of the energy heat map."""
INTRODUCTION = (
    "An energy-based transformer gives an energy to a problem and a candidate answer: low where they fit. It starts from a "
    "random answer and goes downhill; each step of the tables is one move of all cells, or of all predicted bytes. So it can "
    "think longer than it was trained to, and of several answers keep the one of lowest energy. Its rivals are as large: a "
    "transformer that answers at once, and one that is applied again and again. Each of them is trained twice: for as many "
    "updates on the same batches, and for as much processor time."
)

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 860px; margin: 2em auto; padding: 0 1em; color: #222 }
img { max-width: 100%; height: auto; display: block; margin: 1em 0 } h2 { margin-top: 2em } p { overflow-wrap: anywhere }
.scroll { overflow-x: auto; margin: 1em 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25em .8em; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left; white-space: nowrap }
th { border-bottom: 2px solid #888 } .small { color: #666; font-size: 14px }
"""


def show(results: dict[str, Any], console: Console) -> None:
    """Print all tables."""
    for title, head, rows in tables(results):
        table = Table(title=title, title_justify="left", title_style="bold")
        for i, name in enumerate(head):
            table.add_column(name, justify="left" if i == 0 else "right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for line in findings(results):
        console.print(f"* {line}", highlight=False)


def write(results: dict[str, Any], made: dict[str, Any], out: Path, seed: int) -> None:
    """Write ``results.json``, the pictures and ``report.html`` to the folder ``out``."""
    write_json(results, out / "results.json")
    pictures = [*_sudoku_pictures(made, out, seed), *_text_pictures(made, out, seed)]
    write_text(_page(results, pictures, out), out / "report.html")


Table_ = tuple[str, list[str], list[list[str]]]


def tables(results: dict[str, Any]) -> list[Table_]:
    """Return title, header and rows of each table."""
    return [*(_sudoku_table(results, str(givens)) for givens in jobs.GIVENS), _text_table(results), _cost_table(results)]


def _sudoku_table(results: dict[str, Any], givens: str) -> Table_:
    steps = [str(step) for step in jobs.SUDOKU_STEPS]

    def row(label: str, by_steps: dict[str, dict[str, float]]) -> list[str]:
        return [label, *(_percent(by_steps[step]["exact"]) if step in by_steps else "" for step in steps)]

    rows = [
        row(jobs.MODELS["sudoku-ebt"].label, results["sudoku"][givens]),
        row(
            f"  best of {results['candidates']} ({results['boards']['verified']:,} boards)", results["sudoku_verified"][givens]
        ),
        row(jobs.MODELS["sudoku-looped"].label, results["sudoku_looped"][givens]),
        row(jobs.MODELS["sudoku-looped-equal-time"].label, results["sudoku_looped_equal_time"][givens]),
        row(jobs.MODELS["sudoku-feed-forward"].label, {"1": results["sudoku_feedforward"][givens]}),
        row(jobs.MODELS["sudoku-feed-forward-equal-time"].label, {"1": results["sudoku_feedforward_equal_time"][givens]}),
    ]
    count = results["boards"]["one_candidate"]
    return f"Sudoku 6x6, {givens} givens: boards solved (%) of {count:,} by number of steps", ["", *steps], rows


def _text_table(results: dict[str, Any]) -> Table_:
    text, steps = results["text"], [str(step) for step in jobs.TEXT_STEPS]
    rivals = [(name, f"{text[key]:.3f}") for name, key in TEXT_RIVALS.items()]
    rows = [
        [jobs.MODELS["text-ebt"].label, *(f"{text['ebt'][step]:.3f}" for step in steps)],
        *([jobs.MODELS[name].label, nats, *[""] * (len(steps) - 1)] for name, nats in rivals),
    ]
    return "Text: cross entropy (nats per byte) by number of steps", ["", *steps], rows


TEXT_RIVALS = {"text-transformer-pp": "transformer_pp", "text-transformer-pp-equal-time": "transformer_pp_equal_time"}


def _cost_table(results: dict[str, Any]) -> Table_:
    columns = results["parameters"], results["updates"], results["train_seconds"]
    rows = [[name, *(f"{column[name]:,.0f}" for column in columns)] for name in jobs.MODELS]
    return "Models, and the processor time of their training", ["", "parameters", "updates", "training (s)"], rows


def findings(results: dict[str, Any]) -> list[str]:
    """Summarise the numbers in sentences."""
    hard, last = str(min(jobs.GIVENS)), str(max(jobs.SUDOKU_STEPS))
    boards, text = results["sudoku"][hard], results["text"]
    looped, twin = (
        [_percent(_best(results[f"sudoku_{kind}{how}"][hard])) for how in ("", "_equal_time")]
        for kind in ("looped", "feedforward")
    )
    best, lowest = str(text["best_steps"]), str(text["lowest_trained_steps"])
    equal_updates, equal_time = (text["ebt"][best] - text[key] for key in TEXT_RIVALS.values())
    updates, seconds = results["updates"], results["train_seconds"]
    return [
        f"With {hard} givens the EBT solves {_percent(boards['2']['exact'])} % of the boards in 2 steps and "
        f"{_percent(boards[last]['exact'])} % in {last}; choosing the board of lowest energy among {results['candidates']} "
        f"makes it {_percent(results['sudoku_verified'][hard][last]['exact'])} %.",
        f"Its rivals, after as many updates and after as much training time: the looped transformer solves {looped[0]} and "
        f"{looped[1]} % at its best number of iterations, the feed-forward twin {twin[0]} and {twin[1]} %.",
        f"On text, {best} steps (best on validation) gain {text['ebt'][lowest] - text['ebt'][best]:.3f} nats over {lowest}, "
        f"the fewest trained. Transformer++ is then {_compared(equal_updates)} after as many updates, and "
        f"{_compared(equal_time)} after as much training time, in which it makes "
        f"{updates['text-transformer-pp-equal-time']:,} updates instead of {updates['text-ebt']:,}.",
        "Steps are not free: an EBT step is a forward and a backward pass of the network, an iteration of the looped "
        "transformer a forward pass, and an update of the EBT takes "
        f"{_times('sudoku-ebt', 'sudoku-feed-forward', seconds)} times as long as one of its feed-forward twin on boards, "
        f"{_times('text-ebt', 'text-transformer-pp', seconds)} times as long on text.",
    ]


def _best(quality: dict[str, Any]) -> float:
    """Return the fraction of boards solved after the best number of iterations."""
    return quality["exact"] if "exact" in quality else max(point["exact"] for point in quality.values())


def _compared(gap: float) -> str:
    """Describe a baseline by the loss of the EBT minus its own, in nats."""
    return f"{abs(gap):.3f} nats {'worse' if gap < 0 else 'better'}"


def _times(name: str, rival: str, seconds: dict[str, float]) -> str:
    return f"{seconds[name] / seconds[rival]:.1f}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


Picture = tuple[str, str, str]
"""Heading, file name and caption."""
RIVALS_OF_BOARDS = ("sudoku-looped", "sudoku-looped-equal-time", "sudoku-feed-forward", "sudoku-feed-forward-equal-time")


def _sudoku_pictures(made: dict[str, Any], out: Path, seed: int) -> list[Picture]:
    hard = min(jobs.GIVENS)
    names = []
    for givens in jobs.GIVENS:
        curves = {
            "EBT": made["sudoku-ebt"]["curves"][givens],
            "EBT, verified": made[f"{jobs.CANDIDATES} candidates, {givens} givens"],
            **{jobs.MODELS[name].label: made[name]["curves"][givens] for name in RIVALS_OF_BOARDS},
        }
        thinking_curve(curves, out / f"sudoku-{givens}.png", title=f"6x6 Sudoku, {givens} givens")
        names.append(f"sudoku-{givens}.png")
    energy_curve(made["sudoku-ebt"]["curves"][hard], out / "sudoku-energy.png", title=f"Energy of boards, {hard} givens")
    _draw_board(out, seed, hard)
    captions = [f"Boards solved against thinking, {givens} givens (trained on 14 to 20)." for givens in jobs.GIVENS]
    return [
        *(("Sudoku", name, caption) for name, caption in zip(reversed(names), reversed(captions), strict=True)),
        ("Sudoku", "sudoku-board.png", f"A board with {hard} givens while the model thinks."),
        ("Sudoku", "sudoku-energy.png", "The mean energy of the boards, and what the updates really descend."),
    ]


def _draw_board(out: Path, seed: int, givens: int) -> None:
    """Draw the first of a few test boards that is solved, or else the last."""
    model, settings = load_folder(out / "models" / "sudoku-ebt"), jobs.Settings(seed, sudoku_puzzles=1, sudoku_tests=8)
    data = settings.boards()
    data.prepare()
    boards = data.sets[f"givens_{givens}"]
    for puzzle, solution in zip(boards.puzzles, boards.solutions.tolist(), strict=True):
        seen = watch_board(model, torch.as_tensor(puzzle), steps=max(jobs.SUDOKU_STEPS), candidates=1, seed=seed)
        if seen.boards[-1] == solution:
            break
    board_strip(finite(seen), out / "sudoku-board.png", (0, 1, 2, 3, 4, 8, 16), solution)


def _text_pictures(made: dict[str, Any], out: Path, seed: int) -> list[Picture]:
    curves = {"EBT": made["text-ebt"]["curves"]["test"]}
    curves |= {jobs.MODELS[name].label: made[name]["curves"]["test"] for name in TEXT_RIVALS}
    thinking_curve(curves, out / "text.png", title="Documentation of Python, bytes")
    folder = out / "models" / "text-ebt"
    energies = token_energies(load_folder(folder), load_tokenizer_of(folder), TEXT, max(jobs.TEXT_STEPS[:4]), seed)
    token_heat_map(finite(energies), out / "text-energies.png", title="Energy of each byte's prediction while thinking")
    return [
        ("Text", "text.png", "Cross entropy against thinking steps, on test documents."),
        ("Text", "text-energies.png", "Lower energy: the model is surer of what comes next (after the paper's figure 8)."),
    ]


def _page(results: dict[str, Any], pictures: Sequence[Picture], out: Path) -> str:
    parts = ["<h1>Energy-Based Transformers that think</h1>", f"<p>{INTRODUCTION}</p>", "<ul>"]
    parts += [f"<li>{html.escape(line)}</li>" for line in findings(results)]
    parts.append("</ul>")
    for heading in ("Sudoku", "Text"):
        parts.append(f"<h2>{heading}</h2>")
        parts += [_html_table(table) for table in tables(results) if heading in table[0]]
        for _, name, caption in (picture for picture in pictures if picture[0] == heading):
            data, words = base64.b64encode((out / name).read_bytes()).decode(), html.escape(caption)
            parts.append(f'<img alt="{words}" src="data:image/png;base64,{data}"><p class="small">{words}</p>')
    parts += ["<h2>What it took</h2>", _html_table(_cost_table(results)), _origin(results)]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'><title>ebt demo</title>"
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _html_table(table: Table_) -> str:
    title, head, rows = table
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<p><b>{html.escape(title)}</b></p><div class="scroll"><table><tr>{top}</tr>{body}</table></div>'


def _origin(results: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    corpus = results["text"]["corpus"]
    return (
        f'<p class="small">Seed {results["seeds"][0]}; {results["seconds"]:.0f} seconds in all. Text: {corpus["source"]}, '
        f"SHA-256 {corpus['sha256']}. {versions}.</p>"
    )
