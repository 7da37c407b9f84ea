"""What the tabs share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

import gradio as gr

from ebt.errors import InputError

PLAIN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Settings of all events."""
SLIDES: dict[str, Any] = {**PLAIN, "trigger_mode": "always_last", "queue": False}
"""Of those that draw a record again."""
QUEUE: dict[str, Any] = {**PLAIN, "concurrency_limit": 1, "concurrency_id": "thinking", "trigger_mode": "once"}
"""One descent at a time: others wait in line."""
MINUTES = 30
"""How long the server keeps a record for its sliders."""


class Status:
    """A line that says what happens. Screen readers announce it."""

    def __init__(self, text: str) -> None:
        self.html = drawn(self.says(text))

    def says(self, text: str) -> str:
        parts = escape(text).split("*")
        text = "".join(f"<em>{part}</em>" if i % 2 else part for i, part in enumerate(parts))
        return f'<p class="ebt-status" role="status">{text}</p>'

    def fails(self, error: Exception | str) -> str:
        return f'<p class="ebt-status error" role="alert">{escape(str(error))}</p>'


def refused(status: Status, outputs: int, place: int) -> Callable[[Callable[..., Iterator[Any]]], Callable[..., Iterator[Any]]]:
    """Show the ``InputError`` of a generator in the status, which is one of its outputs, and leave the others."""

    def wrap(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        @functools.wraps(function)
        def call(*arguments: Any) -> Iterator[Any]:
            try:
                yield from function(*arguments)
            except InputError as error:
                yield tuple(status.fails(error) if i == place else gr.skip() for i in range(outputs))

        return call

    return wrap


def ended(halt: gr.Button, running: Any, status: Status) -> None:
    """Let a button end what runs."""
    halt.click(lambda: status.says("Stopped."), None, status.html, cancels=[running], queue=False, **PLAIN)


def drawn(content: str = "", script: str | None = None) -> gr.HTML:
    """A place for what ``drawing`` makes, without Gradio's style for prose."""
    return gr.HTML(content, apply_default_css=False, js_on_load=script)


def kept() -> gr.State:
    """A record of one visitor, for a while."""
    return gr.State(None, time_to_live=60 * MINUTES)


def at(label: str, last: int) -> gr.Slider:
    """A slider over the steps of a record."""
    return gr.Slider(0, last, last, step=1, label=label, interactive=True, buttons=[])


def note(*texts: str) -> str:
    return "".join(f'<p class="ebt-note">{escape(text)}</p>' for text in texts if text)
