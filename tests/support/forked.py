"""Fresh processes in milliseconds: forked from a server that has imported what is slow to import, and has done nothing else."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import race


def server() -> ForkServerContext:
    """The context of such processes, the same as that of the benchmarks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(race.PRELOAD)
    return context


def start(function: Callable[..., Any], *arguments: Any, output: Path, env: Mapping[str, str] | None = None) -> BaseProcess:
    """Call a function in a process of its own.

    Args:
        function: importable, as for ``multiprocessing``; what it raises is exit code 1.
        arguments: of the function.
        output: file that gets what the process writes, errors included.
        env: variables of the environment to set.
    """
    process = server().Process(target=_run, args=(function, arguments, output, dict(env or {})))
    process.start()
    return process


def _run(function: Callable[..., Any], arguments: tuple[Any, ...], output: Path, env: dict[str, str]) -> None:
    import torch

    os.environ.update(env)
    with output.open("w", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        torch.set_num_threads(1)
        try:
            function(*arguments)
        except BaseException:
            traceback.print_exc(file=file)
            sys.exit(1)


def finish(process: BaseProcess, output: Path, timeout: float = 240) -> str:
    """What a process wrote once it has ended well.

    Raises:
        AssertionError: it failed, or took too long.
    """
    process.join(timeout)
    code = process.exitcode
    process.kill()
    assert code == 0, f"exit code {code}: {output.read_text()}"
    return output.read_text()
