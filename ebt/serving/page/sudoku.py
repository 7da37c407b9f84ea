"""The tab *Sudoku*: a board that fills in step by step."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
import numpy as np
import numpy.typing as npt
import torch

from ebt.errors import InputError
from ebt.problems.sudoku.boards import board_errors, format_board, is_solved, parse_board
from ebt.problems.sudoku.generator import generate
from ebt.serving.page import drawing
from ebt.serving.page.models import Shown
from ebt.serving.page.parts import PLAIN, SLIDES, Status, at, drawn, kept, note, runs
from ebt.thinking import Simplex

LONGEST = 1000
"""Characters of a puzzle."""
FRAMES = 24
"""Steps shown while the board fills in."""
SECONDS = 0.09
"""Time between them."""
GIVENS = {4: (4, 8), 6: (9, 13), 9: (24, 30)}
"""Fewest givens of a random puzzle, and the number at first, by size of the board."""


@dataclass
class Record:
    """Thinking on one puzzle with M candidates. Small numbers, since the server keeps it for the slider."""

    size: int
    puzzle: npt.NDArray[np.int8]
    digits: npt.NDArray[np.int8]
    """(T + 1, M, C), with the givens."""
    confidence: npt.NDArray[np.uint8]
    """(T + 1, M, C) probability of each digit, in 1/255."""
    energies: npt.NDArray[np.float32]
    """(T + 1, M, C)."""
    winner: int
    twin: str
    """The board of the feed-forward twin, as HTML."""

    @property
    def steps(self) -> int:
        return len(self.digits) - 1


@torch.no_grad()
def think(shown: Shown, name: str, text: str, steps: int, candidates: int, seed: int) -> Record:
    """Think about a puzzle and keep every step of every candidate.

    Raises:
        InputError: If the text is not a puzzle of the model's size.
    """
    model = shown.boards[name]
    size = model.config.board
    puzzle = parse_board(text, size, where="The puzzle", owner="this model solves")
    given = torch.from_numpy(puzzle).long().to(model.device)
    thought = model.think(given, steps=steps, candidates=candidates, seed=seed)
    every, geometry = thought.candidates, thought.geometry
    assert isinstance(geometry, Simplex)
    top, word = geometry.logits(every.path).softmax(-1).max(-1)
    digits = torch.where(given == 0, word + 1, given).to(torch.int8).cpu().numpy()
    confidence = (255 * top).round().to(torch.uint8).cpu().numpy()
    energies = every.energies.float().cpu().numpy()
    return Record(size, puzzle, digits, confidence, energies, int(thought.winner), _twin(shown, size, puzzle))


def _twin(shown: Shown, size: int, puzzle: npt.NDArray[np.int8]) -> str:
    if size not in shown.twins:
        return note(f"There is no feed-forward model of {size} x {size} boards here to compare with.")
    name, twin = shown.twins[size]
    found = twin.predict(torch.from_numpy(puzzle).long()[None].to(twin.device)).to(torch.int8).cpu().numpy()[0]
    caption = f"{name}, the same network without thinking: {_verdict(found, puzzle, size)}"
    return drawing.board(found, puzzle > 0, caption, wrong=board_errors(found, size))


def _verdict(board: npt.NDArray[np.int8], puzzle: npt.NDArray[np.int8], size: int) -> str:
    if is_solved(board, puzzle, size):
        return "solved"
    return f"not solved, {int(board_errors(board, size).sum())} cells in conflict"


def draw(record: Record, step: int) -> tuple[str, str, str]:
    """The winner's board, the energy curves, and the boards of all candidates after a step."""
    step = min(step, record.steps)
    free = record.puzzle == 0
    seen = record.energies[..., free] if free.any() else record.energies
    span = float(np.quantile(seen, 0.02)), float(np.quantile(seen, 0.9))
    sums = record.energies.sum(-1, dtype=np.float64)

    def one(index: int, caption: str, small: bool) -> str:
        board = record.digits[step, index]
        sure = record.confidence[step, index] / 255
        wrong = board_errors(board, record.size)
        return drawing.board(board, ~free, caption, sure, record.energies[step, index], span, wrong, small)

    now = f"{'start' if step == 0 else f'step {step}'}, energy {sums[step, record.winner]:.1f}"
    told = _verdict(record.digits[step, record.winner], record.puzzle, record.size)
    large = one(record.winner, f"Winning candidate, {now}: {told}", False) + drawing.legend(*span, "energy of a cell")
    curve = drawing.curve(sums.T.tolist(), record.winner, step, "Energy of the winning board")
    small = "".join(
        f'<div class="{"winner" if i == record.winner else ""}">'
        + one(i, f"{i + 1}{' (wins)' if i == record.winner else ''}: {sums[step, i]:.1f}", True)
        + "</div>"
        for i in range(record.digits.shape[1])
    )
    return large, curve, f'<div class="ebt-boards">{small}</div>'


def watch(shown: Shown, status: Status, name: str, text: str, steps: int, candidates: int, seed: int) -> Generator[Any]:
    """Think about a puzzle, then show its board step by step: what the tab shows, in the order of its outputs."""
    yield None, status.says("Thinking ..."), *[gr.skip()] * 5
    began = time.monotonic()
    found = think(shown, name, text, int(steps), int(candidates), int(seed))
    took = time.monotonic() - began
    for now in sorted({round(i) for i in np.linspace(0, found.steps, min(found.steps, FRAMES) + 1)}):
        told = f"Step {now} of {found.steps} ..."
        if now == found.steps:
            told = f"Thought {found.steps} steps with {found.digits.shape[1]} candidates in {took:.1f} s: "
            told += _verdict(found.digits[-1, found.winner], found.puzzle, found.size)
        slider = gr.Slider(maximum=found.steps, value=now, interactive=True)
        yield found, status.says(told), slider, *draw(found, now), found.twin
        time.sleep(SECONDS)


def tab(shown: Shown) -> None:
    """Build the tab."""
    if not shown.boards:
        drawn(note(*(shown.missing.get(name, "") for name in ("sudoku-6x6", "sudoku-9x9"))))
        return
    first = next(iter(shown.boards))
    size = shown.boards[first].config.board
    fewest, many = GIVENS[size]
    record = kept()
    with gr.Row():
        with gr.Column(min_width=280):
            name = gr.Radio(list(shown.boards), value=first, label="Model")
            givens = gr.Textbox(
                random_puzzle(size, many, 0), label="Puzzle", lines=size, max_lines=14, max_length=LONGEST,
                info="Digits, with . or 0 for an empty cell. Paste one line or a grid.", elem_classes="ebt-mono",
            )  # fmt: skip
            count = gr.Slider(fewest, size**2 - 1, many, step=1, label="Givens of a random puzzle")
            random = gr.Button("Random puzzle")
            with gr.Accordion("How it thinks", open=False):
                steps = gr.Slider(1, 64, 32, step=1, label="Steps", info="More steps: thinking longer.")
                candidates = gr.Slider(1, 12, 6, step=1, label="Candidates", info="The one of lowest energy wins.")
                seed = gr.Number(0, precision=0, minimum=0, maximum=2**31, label="Seed of the random starts")
            with gr.Row():
                go, halt = gr.Button("Think", variant="primary"), gr.Button("Stop")
        with gr.Column(min_width=280, scale=2):
            status = Status("Press *Think*, and watch the board fill in.")
            large = drawn(_empty(size, random_puzzle(size, many, 0)))
            step = at("Step", 32)
            curve = drawn()
    small, twin = _more()
    out = [record, status.html, step, large, curve, small, twin]
    turns = runs(go, halt, partial(watch, shown, status), [name, givens, steps, candidates, seed], out, status)
    step.input(
        lambda found, now: draw(found, now) if found else [gr.skip()] * 3, [record, step], [large, curve, small], **SLIDES
    )
    clear = [record, status.html, large, curve, small, twin]

    def fresh(name: str, text: str, request: gr.Request) -> Any:
        if turns.about(request, name, text):  # Think was pressed before the change of the puzzle was told
            return [gr.skip()] * len(clear)
        turns.next(request)
        size = shown.boards[name].config.board
        try:
            return None, status.says("Press *Think*, and watch the board fill in."), _empty(size, text), "", "", ""
        except InputError as error:
            return None, status.fails(error), *[gr.skip()] * 4

    def draw_random(name: str, count: int) -> str:
        return random_puzzle(shown.boards[name].config.board, int(count))

    def other(name: str) -> Any:
        size = shown.boards[name].config.board
        least, many = GIVENS[size]
        return gr.Slider(least, size**2 - 1, many), gr.Textbox(random_puzzle(size), lines=size)

    random.click(draw_random, [name, count], givens, **PLAIN)
    name.input(other, name, [count, givens], **PLAIN)
    givens.change(fresh, [name, givens], clear, **PLAIN)


def _more() -> tuple[gr.HTML, gr.HTML]:
    with gr.Row():
        with gr.Column(min_width=280, scale=2):
            gr.Markdown("## All candidates")
            small = drawn()
        with gr.Column(min_width=280):
            gr.Markdown("## Without thinking")
            twin = drawn()
    return small, twin


def random_puzzle(size: int, givens: int | None = None, seed: int | None = None) -> str:
    """A puzzle as text. Its givens are those of ``GIVENS`` by default, its seed is the time."""
    seed = time.time_ns() % 2**31 if seed is None else seed
    return format_board(generate(size, givens or GIVENS[size][1], 1, seed).puzzles[0], size)


def _empty(size: int, text: str) -> str:
    puzzle = parse_board(text, size, where="The puzzle", owner="this model solves")
    return drawing.board(puzzle, puzzle > 0, f"{int((puzzle > 0).sum())} givens")
