"""Processes that work side by side and tell how far they are."""

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
"""Called with the units of work done, all units, and a note."""
OFTEN, SELDOM = 0.5, 30.0
"""Seconds between messages of a job, and between lines where no bars can be drawn."""


@contextmanager
def pool(processes: int, threads: int, devices: Sequence[str] = ()) -> Iterator[tuple[ProcessPoolExecutor, Any]]:
    """So many fresh processes of so many threads each, and a queue of their messages. Whatever ends the block ends them.

    Where there are ``devices``, by number or name as in CUDA_VISIBLE_DEVICES, each process sees one of them, in turns.

    Ctrl-C ends the processes, and then the block as ``KeyboardInterrupt``, SIGTERM likewise as ``SystemExit`` of 143: raised at
    once, wherever the program is, they could get lost in a callback. Processes that lose this one end themselves.
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
                process.kill()  # a training answers SIGTERM in its own way, and may live on; results are whole or not there
            if signals and not working:
                raise _ended(pressed[0])

        main = threading.current_thread() is threading.main_thread()
        before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)} if main else {}
        try:
            yield made, manager.Queue()
        except BaseException as error:
            end()
            if pressed:  # whatever the processes made of their end
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
        os.environ["CUDA_VISIBLE_DEVICES"] = devices.get()  # before CUDA is asked for anything
    import torch

    warnings.showwarning = show_warning
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is answered by the process that started these
    torch.set_num_threads(threads)


def teller(messages: Any, name: str) -> Report:
    """What a job reports to, in its process."""
    last = 0.0

    def tell(done: int, total: int, note: str) -> None:
        nonlocal last
        if done >= total or time.monotonic() - last > OFTEN:
            last = time.monotonic()
            messages.put((name, done, total, note))

    return tell


def bars(console: Console) -> Progress:
    """A bar for each job: how far, how long, time left, and a note."""
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
    """Who is running, for the eyes of the user: one bar per job."""

    progress: Progress
    messages: Any
    bars: dict[str, TaskID] = field(default_factory=dict)
    printed: float = 0.0

    def show(self, name: str, done: float, total: float, note: str = "") -> None:
        """Move the bar of a job."""
        if name not in self.bars:
            self.bars[name] = self.progress.add_task(name, note="")
        self.progress.update(self.bars[name], completed=done, total=total, note=note)

    def read(self) -> None:
        """Show all messages that have come."""
        while True:
            try:
                self.show(*self.messages.get_nowait())
            except queue.Empty:
                return

    def drop(self, name: str) -> None:
        """Take away the bar of a job that has ended."""
        if name in self.bars:
            self.progress.remove_task(self.bars.pop(name))

    def share(self, name: str) -> float:
        """How much of a job is done, from 0 to 1."""
        task = next((task for task in self.progress.tasks if task.id == self.bars.get(name)), None)
        return 0.0 if task is None else task.percentage / 100

    def print_now_and_then(self) -> None:
        """Where no bars can be drawn, in a log file: a line for each job at work, twice a minute."""
        if self.progress.console.is_terminal or time.monotonic() - self.printed < SELDOM:
            return
        self.printed = time.monotonic()
        for task in self.progress.tasks:
            if not task.finished:
                left = "" if task.time_remaining is None else f", {task.time_remaining:.0f} s left"
                self.progress.console.print(f"{task.description}: {task.percentage:.0f} %{left}, {task.fields['note']}")
