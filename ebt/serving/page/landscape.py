"""The tab *Landscape*: a plane through the energy around an answer, with the descent's path."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import gradio as gr
import torch

from ebt.evaluation.slices import Slice, landscape_slice
from ebt.serving.page import drawing
from ebt.serving.page.models import Shown
from ebt.serving.page.parts import PLAIN, SLIDES, Status, at, drawn, kept, note, runs
from ebt.serving.page.sudoku import random_puzzle
from ebt.serving.page.text import read

LONGEST = 1000
"""Characters of a puzzle or a text."""
ENERGY, OBJECTIVE = "Energy", "What the descent minimises"
PUZZLE = ".5.3..1...26.4..6......2......5.6..."
ABOUT = """
A candidate is a point in a space of many dimensions. The map shows the plane through the winner's last point that holds most of
the candidates' movement. Circles are random starts, lines are steps, and the large dot is the winner. Paths leave the plane,
so a step may seem to go uphill. *What the descent minimises* is the energy plus what the update adds to it. For the bundled
models, that is minus the entropy of the prediction divided by the step size, which keeps probabilities honest. For
*sudoku-9x9*, half the mean square of its latent vectors, divided by their step size, is added.
"""


def find(shown: Shown, name: str, text: str, steps: int, candidates: int, seed: int) -> Slice:
    """The slice for a puzzle, or for the token after a text.

    Raises:
        InputError: If the text is not a puzzle, is empty or is too long.
    """
    how = {"steps": steps, "candidates": candidates, "seed": seed}
    if name in shown.boards:
        return landscape_slice(shown.boards[name], text, **how)
    served = shown.text[name]
    return landscape_slice(served.model, torch.tensor([read(served, text)], device=served.model.device), predictions=1, **how)


def draw(found: Slice, step: int, shown: str) -> str:
    """The map at a step."""
    return drawing.landscape(found, min(step, len(found.paths) - 1), shown == OBJECTIVE)


def tab(shown: Shown) -> None:
    """Build the tab."""
    names = [*shown.boards, *shown.text]
    if not names:
        drawn(note("There is no model to show.", *shown.missing.values()))
        return
    record = kept()
    with gr.Row():
        with gr.Column(min_width=280):
            name = gr.Radio(names, value=names[0], label="Model")
            text = gr.Textbox(_context(shown, names[0]), label="Puzzle, or text before the next token", lines=3, max_lines=12,
                              max_length=LONGEST, elem_classes="ebt-mono")  # fmt: skip
            steps = gr.Slider(1, 32, 12, step=1, label="Steps")
            candidates = gr.Slider(1, 12, 5, step=1, label="Candidates")
            seed = gr.Number(0, precision=0, minimum=0, maximum=2**31, label="Seed of the random starts")
            with gr.Row():
                go, halt = gr.Button("Draw the map", variant="primary"), gr.Button("Stop")
        with gr.Column(min_width=280, scale=2):
            status = Status("Press *Draw the map*.")
            kind = gr.Radio([OBJECTIVE, ENERGY], value=OBJECTIVE, label="Height")
            step = at("Step", 12)
            place = drawn()
            gr.Markdown(ABOUT)
    out = [record, status.html, step, place]

    def run(name: str, text: str, steps: int, candidates: int, seed: int, kind: str) -> Generator[Any]:
        yield None, status.says("Thinking ..."), gr.skip(), gr.skip()
        found = find(shown, name, text, int(steps), int(candidates), int(seed))
        told = f"{candidates} candidates, {steps} steps. The plane holds {100 * found.share:.0f} % of their movement."
        last = len(found.paths) - 1
        yield found, status.says(told), gr.Slider(maximum=last, value=last, interactive=True), draw(found, last, kind)

    runs(go, halt, run, [name, text, steps, candidates, seed, kind], out, status)

    def again(found: Slice | None, now: int, kind: str) -> Any:
        return draw(found, int(now), kind) if found else gr.skip()

    for changed in (step, kind):
        changed.input(again, [record, step, kind], place, **SLIDES)
    name.input(lambda name: _context(shown, name), name, text, **PLAIN)


def _context(shown: Shown, name: str) -> str:
    if name not in shown.boards:
        return "The function returns"
    size = shown.boards[name].config.board
    return PUZZLE if size == 6 else random_puzzle(size, seed=0)
