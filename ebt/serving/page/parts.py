"""What the tabs share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from html import escape
from typing import Any

import gradio as gr

from ebt.errors import InputError

PLAIN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Settings of all events."""
SLIDES: dict[str, Any] = {**PLAIN, "trigger_mode": "always_last", "queue": False}
"""Of those that draw a record again."""
QUEUE: dict[str, Any] = {**PLAIN, "concurrency_limit": 1, "concurrency_id": "thinking"}
"""One descent at a time: others wait in line."""
VISITORS = 200
"""Most visitors whose records are kept."""
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


class Turns:
    """The current run of each visitor. Others end at their next step, also those that still wait in line.

    Gradio's own ``cancels`` fails for a run that the server does not know yet.
    """

    def __init__(self) -> None:
        self._latest: OrderedDict[str, tuple[int, tuple[Any, ...]]] = OrderedDict()

    def next(self, request: gr.Request, *given: Any) -> str:
        """Begin a turn with what was given, which ends the one before, and return its name."""
        visitor = str(request.session_hash)
        turn = self._latest.pop(visitor, (0, ()))[0] + 1
        self._latest[visitor] = turn, given
        while len(self._latest) > VISITORS:
            self._latest.popitem(last=False)
        return f"{visitor} {turn}"

    def current(self, name: str) -> bool:
        """Whether no other turn has begun since."""
        visitor, _, turn = name.rpartition(" ")
        return self._latest.get(visitor, (0, ()))[0] == int(turn)

    def stopped(self, name: str) -> bool:
        """Whether the latest turn of the visitor is a stop, which is given nothing."""
        return not self._latest.get(name.rpartition(" ")[0], (0, ()))[1]

    def about(self, request: gr.Request, *given: Any) -> bool:
        """Whether the latest turn was given this first."""
        return self._latest.get(str(request.session_hash), (0, ()))[1][: len(given)] == given


def runs(
    go: gr.Button,
    halt: gr.Button,
    function: Callable[..., Generator[Any]],
    inputs: list[Any],
    outputs: list[Any],
    status: Status,
    **limits: Any,
) -> Turns:
    """Run a generator when ``go`` is pressed and show what it yields, until ``halt`` is pressed.

    An ``InputError`` is shown in the status, which is one of the outputs. A press while the last run still ends is not lost.
    """
    turns, turn = Turns(), gr.State("")

    def only(told: str) -> tuple[Any, ...]:
        return tuple(told if output is status.html else gr.skip() for output in outputs)

    def call(*given: Any) -> Iterator[Any]:
        *arguments, name = given
        with closing(function(*arguments)) as running:
            try:
                for shown in running:
                    if not turns.current(name):
                        if turns.stopped(name):  # again, for what was yielded before the stop may arrive after it
                            yield only(status.says("Stopped."))
                        return
                    yield shown
            except InputError as error:
                if turns.current(name):
                    yield only(status.fails(error))

    def stop(request: gr.Request) -> str:
        turns.next(request)
        return status.says("Stopped.")

    def begin(request: gr.Request, *given: Any) -> tuple[str, str]:
        return turns.next(request, *given), status.says("Waiting in line ...")

    pressed = go.click(begin, inputs, [turn, status.html], queue=False, trigger_mode="multiple", **PLAIN)
    pressed.then(call, [*inputs, turn], outputs, **{**QUEUE, "trigger_mode": "multiple", **limits})
    halt.click(stop, None, status.html, queue=False, **PLAIN)
    return turns


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
