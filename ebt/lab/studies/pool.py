"""A pool of processes that report their progress."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.managers import SyncManager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ebt.errors import show_warning

Report = Callable[[int, int, str], None]
"""Called with the units of work done, their total number, and a note."""
OFTEN, SELDOM = 0.5, 30.0
"""Seconds between messages of a job, and between progress lines without a terminal."""


@contextmanager
def pool(processes: int, threads: int, devices: Sequence[str] = ()) -> Iterator[tuple[ProcessPoolExecutor, Any]]:
    """Create a pool of processes with ``threads`` threads each, and a message queue. Leaving the context ends the processes.

    With ``devices``, named as in CUDA_VISIBLE_DEVICES, each process sees one of them, in turn.

    Ctrl-C ends the processes and raises ``KeyboardInterrupt`` at the end of the context; SIGTERM raises ``SystemExit(143)``.
    Raised immediately, they could be lost in a callback. Processes end themselves if this one dies.
    """
    context = get_context("spawn")
    manager = SyncManager(ctx=context)
    manager.start(_end_with_parent)
    with manager:
        free = manager.Queue()
        for i in range(processes if devices else 0):
            free.put(devices[i % len(devices)])
        made = ProcessPoolExecutor(processes, context, initializer=_start, initargs=(threads, free if devices else None))
        others, pressed = active_children(), list[int]()

        def end(*signals: Any) -> None:
            pressed.extend(signals[:1])
            working = [process for process in active_children() if process not in others]
            for process in working:
                process.kill()  # training handles SIGTERM itself and may survive it; results are written atomically
            if signals and not working:
                raise _ended(pressed[0])

        main = threading.current_thread() is threading.main_thread()
        before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)} if main else {}
        try:
            yield made, manager.Queue()
        except BaseException as error:
            end()
            if pressed:  # regardless of how the processes ended
                raise _ended(pressed[0]) from error
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            made.shutdown(cancel_futures=True)


def _ended(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _start(threads: int, devices: Any = None) -> None:
    _end_with_parent()
    if devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices.get()  # before CUDA is initialised
    import torch

    warnings.showwarning = show_warning
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles Ctrl-C
    torch.set_num_threads(threads)


def teller(messages: Any, name: str) -> Report:
    """Return the progress callback of a job in its process."""
    last = 0.0

    def tell(done: int, total: int, note: str) -> None:
        nonlocal last
        if done >= total or time.monotonic() - last > OFTEN:
            last = time.monotonic()
            messages.put((name, done, total, note))

    return tell


def bars(console: Console) -> Progress:
    """Return progress bars with percentage, elapsed and remaining time, and a note."""
    columns = (
        TextColumn("{task.description:26}"),
        BarColumn(24),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    return Progress(*columns, console=console, speed_estimate_period=300)


@dataclass
class Board:
    """The progress display, with one bar per job."""

    progress: Progress
    messages: Any
    bars: dict[str, TaskID] = field(default_factory=dict)
    printed: float = 0.0

    def show(self, name: str, done: float, total: float, note: str = "") -> None:
        """Update the bar of a job."""
        if name not in self.bars:
            self.bars[name] = self.progress.add_task(name, note="")
        self.progress.update(self.bars[name], completed=done, total=total, note=note)

    def read(self) -> None:
        """Show all pending messages."""
        while True:
            try:
                self.show(*self.messages.get_nowait())
            except queue.Empty:
                return

    def drop(self, name: str) -> None:
        """Remove the bar of a finished job."""
        if name in self.bars:
            self.progress.remove_task(self.bars.pop(name))

    def share(self, name: str) -> float:
        """Return the completed share of a job, in [0, 1]."""
        task = next((task for task in self.progress.tasks if task.id == self.bars.get(name)), None)
        return 0.0 if task is None else task.percentage / 100

    def print_now_and_then(self) -> None:
        """Without a terminal, print a line per running job twice a minute."""
        if self.progress.console.is_terminal or time.monotonic() - self.printed < SELDOM:
            return
        self.printed = time.monotonic()
        for task in self.progress.tasks:
            if not task.finished:
                left = "" if task.time_remaining is None else f", {task.time_remaining:.0f} s left"
                self.progress.console.print(f"{task.description}: {task.percentage:.0f} %{left}, {task.fields['note']}")
