"""Fresh processes in milliseconds: forked from a server that has imported what is slow to import, and has done nothing else.

What is slow belongs to others: of this library and its tests, such a process finds nothing imported.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import runpy
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
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

    gc.freeze()  # collecting what the server has imported takes longer than many a test
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


@dataclass(frozen=True)
class Program:
    """``python *arguments``, at work."""

    arguments: tuple[str, ...]
    process: BaseProcess
    folder: Path
    """Where it writes what it prints."""

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def ended(self, timeout: float = 240, check: bool = False) -> subprocess.CompletedProcess[str]:
        """What came of it.

        Raises:
            AssertionError: it took too long, or failed and ``check`` is set.
        """
        self.process.join(timeout)
        code = self.process.exitcode
        self.process.kill()
        out, err = ((self.folder / name).read_text(encoding="utf-8") for name in ("out", "err"))
        rmtree(self.folder)
        assert code is not None, f"still at work after {timeout} s: {err}"
        assert code == 0 or not check, f"exit code {code}: {err}"
        return subprocess.CompletedProcess(self.arguments, code, out, err)


def begin(*arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, path: Sequence[Path] = ()) -> Program:
    """Start ``python *arguments`` in a process of its own; modules of the library are imported by itself.

    Args:
        arguments: ``-m MODULE ...``, ``-c TEXT ...`` or ``FILE ...``.
        env: variables of the environment to set.
        cwd: the folder to work in.
        path: where it looks for modules first.
    """
    folder = Path(mkdtemp(prefix="program-"))
    how = ({**os.environ, **(env or {})}, cwd or Path.cwd(), [str(part) for part in path])
    process = server().Process(target=_program, args=(arguments, folder, *how))
    process.start()
    return Program(arguments, process, folder)


def program(*arguments: str, env: Mapping[str, str] | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    """What came of ``python *arguments``, as ``begin`` runs it."""
    return begin(*arguments, env=env).ended(check=check)


def _program(arguments: tuple[str, ...], folder: Path, env: dict[str, str], cwd: Path, path: list[str]) -> None:
    gc.freeze()
    for number, name in ((1, "out"), (2, "err")):
        with (folder / name).open("w") as file:
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[:0] = path
    assert not any(name.split(".")[0] == "ebt" for name in sys.modules)
    if arguments[0] == "-m":
        sys.argv = list(arguments[1:])
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = list(arguments)
        runpy.run_path(sys.argv[0], run_name="__main__")
