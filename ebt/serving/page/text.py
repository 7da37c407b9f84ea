"""The tab *Text*: a text that is continued token by token, and what the model thought about each."""

from __future__ import annotations

import queue
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, get_args

import gradio as gr
import torch

from ebt.errors import InputError
from ebt.problems.language.pictures import visible
from ebt.problems.language.tokenizers import encode
from ebt.serving.engine import Piece, Row, Served
from ebt.serving.page import drawing
from ebt.serving.page.models import Shown
from ebt.serving.page.parts import QUEUE, Status, drawn, kept, note, runs
from ebt.thinking import Rule, Simplex

LONGEST = 2000
"""Characters of a prompt."""
WORDS = 4
"""Most probable tokens per step."""
SECONDS = 0.1
"""Least time between two updates of the page."""
PICK = """
const pick = button => {
  for (const each of element.querySelectorAll('button[data-token]')) {
    each.tabIndex = -1; each.setAttribute('aria-pressed', each === button);
  }
  button.tabIndex = 0; button.focus();
};
element.addEventListener('click', event => {
  const button = event.target.closest('button[data-token]');
  if (button) { pick(button); trigger('select', {index: Number(button.dataset.token)}); }
});
element.addEventListener('keydown', event => {
  const all = [...element.querySelectorAll('button[data-token]')], here = all.indexOf(document.activeElement);
  const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
  if (here >= 0 && step && all[here + step]) { event.preventDefault(); pick(all[here + step]); }
});
"""
"""A click selects a token. The arrow keys move between tokens, so that the text is one stop of the tab key."""


@dataclass
class Record:
    """A text that a model continued."""

    model: str
    ids: list[int]
    """The prompt, and the tokens made so far."""
    prompt: int
    options: dict[str, Any]
    words: list[str] = field(default_factory=list)
    energies: list[float] = field(default_factory=list)


def read(served: Served, text: str) -> list[int]:
    """The tokens of a text.

    Raises:
        InputError: If it is empty or longer than the context of the model.
    """
    ids, context = encode(served.tokenizer, [text])[0], served.model.config.context_length
    if not text or len(ids) > context:
        raise InputError(f"The text has {len(ids)} tokens: give 1 to {context}, the context of the model.")
    return ids


def write(shown: Shown, name: str, prompt: str, most: int, temperature: float, options: dict[str, Any]) -> Iterator[Record]:
    """Continue a text through the engine that also serves programs, token by token. Closing the iterator cancels it.

    Raises:
        InputError: If the prompt is empty or longer than the context.
    """
    served: Served = shown.text[name]
    ids = read(served, prompt)
    pieces: queue.Queue[Piece] = queue.Queue()
    row = Row(0, name, ids, most, pieces.put, temperature, seed=time.time_ns(), energies=True, options=options)
    record = Record(name, list(ids), len(ids), options)
    shown.engine.submit([row])
    try:
        while True:
            piece = pieces.get()
            if piece.error is not None:
                raise InputError("The text could not be continued: see the log of the server.")
            for token in piece.tokens:
                record.ids.append(token.id)
                record.words.append(served.token_text(token.id))
                record.energies.append(float(token.energy or 0.0))
            yield record
            if piece.finish is not None:
                return
    finally:
        row.cancelled = True


@torch.no_grad()
def look(shown: Shown, record: Record, index: int) -> tuple[str, str]:
    """Think about a token again, as when it was chosen: the most probable words at each step, and the energy curve."""
    served: Served = shown.text[record.model]
    limit = served.model.config.context_length
    before = record.ids[: record.prompt + index][-limit:]
    inputs = torch.tensor([before], device=served.model.device)
    thought = served.model.think(inputs, predictions=1, **record.options)
    geometry = thought.geometry
    assert isinstance(geometry, Simplex)
    best = geometry.logits(thought.path[:, 0, 0]).double().softmax(-1).topk(min(WORDS, len(geometry.table)))
    energies = thought.energies[:, 0, 0].tolist()
    rows = [
        (energy, [(served.token_text(token), p) for token, p in zip(tokens, chances, strict=True)])
        for energy, tokens, chances in zip(energies, best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    every = thought.candidates.energies[:, :, 0].T.tolist()
    word = visible(record.words[index])
    curve = drawing.curve(every, int(thought.winner), len(energies) - 1, f"Energy of the prediction of token {index + 1}")
    return drawing.words_by_step(rows, f"Token {index + 1}, {word}: what the winning candidate held at each step"), curve


def tab(shown: Shown) -> None:
    """Build the tab."""
    models = shown.text
    if not models:
        drawn(note(shown.missing.get("text-python", "No language model that thinks is served: give one with --checkpoint.")))
        return
    first = next(iter(models))
    thinking = models[first].model.thinking
    record = kept()
    with gr.Row():
        with gr.Column(min_width=280):
            name = gr.Radio(list(models), value=first, label="Model", visible=len(models) > 1)
            prompt = gr.Textbox("The function returns", label="Prompt", lines=3, max_lines=8, max_length=LONGEST)
            most = gr.Slider(1, 200, 80, step=1, label="New tokens")
            temperature = gr.Slider(0, 2, 0.7, step=0.05, label="Temperature", info="0 takes the most probable token.")
            with gr.Accordion("How it thinks", open=False):
                steps = gr.Slider(1, 32, thinking.steps, step=1, label="Steps")
                candidates = gr.Slider(1, 16, 1, step=1, label="Candidates")
                rule = gr.Dropdown(list(get_args(Rule)), value="lowest", label="Rule", info="Which candidate is kept.")
            with gr.Row():
                go, halt = gr.Button("Continue", variant="primary"), gr.Button("Stop")
        with gr.Column(min_width=280, scale=2):
            status = Status("Press *Continue*, then pick a token.")
            text = drawn(script=PICK)
            words = drawn()
            curve = drawn()
    out = [record, status.html, text, words, curve]

    def run(name: str, prompt: str, most: int, temperature: float, steps: int, candidates: int, rule: str) -> Generator[Any]:
        options = {"steps": int(steps), "candidates": int(candidates), "rule": rule}
        began = last = time.monotonic()
        yield None, status.says("Waiting for the first token ..."), "", "", ""
        found = None
        for found in write(shown, name, prompt, int(most), float(temperature), options):
            if time.monotonic() - last > SECONDS:
                last = time.monotonic()
                told = status.says(f"{len(found.words)} tokens ...")
                yield found, told, drawing.tokens(prompt, found.words, found.energies), gr.skip(), gr.skip()
        assert found is not None
        speed = len(found.words) / (time.monotonic() - began)
        told = status.says(f"{len(found.words)} tokens, {speed:.1f} a second. Pick one to see how it was thought.")
        yield found, told, drawing.tokens(prompt, found.words, found.energies), gr.skip(), gr.skip()

    def chosen(record: Record | None, event: gr.EventData) -> Any:
        index = event._data.get("index") if isinstance(event._data, dict) else None
        if record is None or not isinstance(index, int) or not 0 <= index < len(record.words):
            return gr.skip(), gr.skip()
        return look(shown, record, index)

    inputs = [name, prompt, most, temperature, steps, candidates, rule]
    runs(go, halt, run, inputs, out, status, concurrency_id="text", concurrency_limit=8)
    text.select(chosen, record, [words, curve], **QUEUE | {"trigger_mode": "always_last"})
