"""A Python that has imported what is slow to import, and forks itself for whoever asks for one.

``python preloaded.py ARGUMENTS`` runs ``python ARGUMENTS`` with ``EBT_PRELOADED`` set: a program that takes the place of
``python -c CODE``. The workers of pytest, and the servers from which their tests fork processes, begin with it: each would
import for seconds otherwise. Of this library, its tests and pytest, they find nothing imported.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from types import ModuleType

PROGRAM, ASK = "EBT_PRELOADED", "--ask"
MODULES = (
    "lightning",
    "transformers.modeling_utils",
    "transformers.generation.utils",
    "transformers.trainer",
    "matplotlib.pyplot",
    "jsonargparse",
    "datasets",
    "sklearn.datasets",
    "skimage.metrics",
    "openai",
    "gradio",
    "playwright.sync_api",
)
"""Whoever lacks one goes without it."""
FREE = 500
"""No process has as many files open."""


def ask() -> None:
    """Have a process forked that does what this one is asked to do, with its files; wait until it ends."""
    files = sorted(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(str(Path(os.environ[PROGRAM]).with_name("socket")))
        files = [file for file in files if file != server.fileno() and Path(f"/proc/self/fd/{file}").exists()]
        socket.send_fds(server, [b"."], files)
        server.sendall(json.dumps([sys.argv[2:], dict(os.environ), str(Path.cwd()), files]).encode())
        server.shutdown(socket.SHUT_WR)
        server.recv(1)


def become(connection: socket.socket) -> None:
    """In a forked process: do what was asked."""
    _, received, *_ = socket.recv_fds(connection, 1, 100)
    arguments, environment, folder, files = json.loads(b"".join(iter(lambda: connection.recv(1 << 16), b"")))
    spare = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, FREE) for file in (*received, connection.detach())]
    os.closerange(0, FREE)
    for source, target in zip(spare, files, strict=False):  # the connection stays open until this process ends
        os.dup2(source, target)
        os.close(source)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    code = arguments.index("-c") + 1
    sys.argv, sys.path[0] = ["-c", *arguments[code + 1 :]], ""
    sys.modules["__main__"] = main = ModuleType("__main__")
    exec(compile(arguments[code], "<string>", "exec"), vars(main))


def serve(folder: Path, arguments: list[str]) -> int:
    """Run ``python`` with the arguments, and fork a process for whoever asks. Returns 0 in such a process, at its end."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.listen()
    ended, ends = os.pipe()
    command = subprocess.Popen([sys.executable, *arguments], pass_fds=[ends])
    os.close(ends)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command answers it
    for name in MODULES:
        with suppress(ImportError):
            import_module(name)
    gc.collect()
    gc.freeze()
    while listener in select.select([listener, ended], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            listener.detach()
            command.returncode = 0
            become(connection)
            return 0
        connection.close()
    return command.wait()


def start() -> int:
    """Run ``python`` with the arguments of this program."""
    folder, own = Path(mkdtemp(prefix="preloaded-")), os.getpid()
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{Path(__file__).resolve()}" {ASK} "$@"\n')
    program.chmod(0o755)
    os.environ |= {PROGRAM: str(program), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": f"{folder}/huggingface"}
    try:
        return serve(folder, sys.argv[1:])
    finally:
        if os.getpid() == own:
            rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    if sys.argv[1:2] == [ASK]:
        ask()
    elif sys.platform == "linux":
        sys.exit(start())
    else:
        sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))
