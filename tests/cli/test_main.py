"""The dispatcher: one table, imports when they are needed, errors in one line."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import ebt.cli.main as command
from ebt.errors import InputError
from ebt.thinking import NonFiniteError

Result = tuple[int, str, str]


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> Result:
    code = command.main(list(arguments))
    return code, *capsys.readouterr()


def test_help_names_every_command_and_waits_for_nothing() -> None:
    program = "import sys; from ebt.cli.main import main; main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "False"
    assert all(f"\n  {name} " in done.stdout for name in command.COMMANDS)


@pytest.mark.parametrize("name", command.COMMANDS)
def test_the_help_of_a_command_waits_for_nothing(name: str) -> None:
    program = (
        "import sys, time; from ebt.cli.main import main\n"
        f"try: code = main([{name!r}, '--help'])\n"
        "except SystemExit as done: code = done.code\n"
        "print(code, 'torch' in sys.modules, time.process_time())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    code, torch, seconds = done.stdout.splitlines()[-1].split()
    assert (code, torch) == ("0", "False")
    assert float(seconds) < 0.3
    assert f"ebt {name}" in done.stdout


def test_importing_the_library_waits_for_nothing() -> None:
    program = "import sys, time; import ebt; print('torch' in sys.modules, time.process_time())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    torch, seconds = done.stdout.split()
    assert torch == "False"
    assert float(seconds) < 0.1


def test_a_command_is_imported_without_collections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "import gc\nCOLLECTING = gc.isenabled()\n\ndef main(given):\n    return 10 * gc.isenabled() + COLLECTING\n"
    (tmp_path / "a_command.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(command.LAB, "demo", "a_command")
    assert command.main(["demo"]) == 10
    monkeypatch.delitem(sys.modules, "a_command")


@pytest.mark.parametrize(("given", "found"), [({}, command.SPIN), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_the_threads_of_a_server_wait_asleep(given: dict[str, str], found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is set before torch is imported, unless it was set before."""
    program = (
        "import os, sys; import ebt.cli.main as command\n"
        'command._module = lambda name: sys.exit(f\'{os.environ["GOMP_SPINCOUNT"]} {"torch" in sys.modules}\')\n'
        "command.main(['serve'])"
    )
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env={**os.environ, **given}
    )
    assert done.stderr.split() == [found, "False"]


def test_no_character_ends_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", narrow)
    speak = SimpleNamespace(main=lambda _: print("naïve → 数") or 0)
    monkeypatch.setattr(command.importlib, "import_module", lambda _: speak)
    assert command.main(["fit"]) == 0
    narrow.flush()
    assert narrow.buffer.getvalue().decode("cp1252").strip() == "naïve ? ?"  # type: ignore[attr-defined]


def _speaking(tmp_path: Path, *, stdout: str, folder: str) -> tuple[int, str, bool]:
    """Run a command that prints a page and then writes a file. Returns its code, its stderr and whether the file is there."""
    program = (
        "import sys; from types import SimpleNamespace; import ebt.cli.main as command; from ebt.files import write_text\n"
        "def main(given): print('x' * 100_000); write_text('done', sys.argv[1]); return 0\n"
        "command.importlib.import_module = lambda _: SimpleNamespace(main=main)\n"
        "sys.exit(command.main(['fit']))"
    )
    file = tmp_path / folder / "result.txt"
    shell = f'"{sys.executable}" -c "$0" "$1" {stdout}'
    done = subprocess.run(["bash", "-c", shell, program, str(file)], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr, file.exists()


def test_a_closed_pipe_loses_no_result(tmp_path: Path) -> None:
    assert _speaking(tmp_path, stdout="| :; exit ${PIPESTATUS[0]}", folder=".") == (141, "", True)


def test_a_full_disk_behind_stdout_loses_no_result(tmp_path: Path) -> None:
    code, error, written = _speaking(tmp_path, stdout="> /dev/full", folder=".")
    assert (code, written) == (2, True)
    assert error.startswith("ebt: error: the output cannot be printed")
    assert error.count("\n") == 1


def test_a_file_that_cannot_be_written_is_named_in_one_line() -> None:
    program = (
        "from types import SimpleNamespace; import sys, ebt.cli.main as command; from ebt.files import write_text\n"
        "def main(given): write_text('x', '/dev/full'); return 0\n"
        "command.importlib.import_module = lambda _: SimpleNamespace(main=main)\n"
        "sys.exit(command.main(['fit']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("ebt: error: a file cannot be read or written ([Errno 28] No space left on device: ")
    assert "'/dev/full'" in done.stderr


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("solve --checkpoint x --Step 3", "Did you mean --steps?"),
        ("serve --prot 3", "Did you mean --port?"),
        ("demo --nosuch", "--nosuch. See `ebt demo --help`"),
        ("demo --out /proc/x", "--out /proc/x/models cannot be created"),
        ("convert a b --tokeniser c", "Did you mean --tokenizer?"),
        ("solve --checkpoint x --seed 4294967296", "4294967296 is too large: give at most 4294967295"),
        ("think --checkpoint x --batch-size 99999999999999999999", "is too large"),
        ("generate --checkpoint x --prompt a --temperature 1e-300", "give --greedy instead"),
        ("generate --checkpoint x --prompt a\udc80", "the text is not UTF-8 at character 2"),
    ],
)
def test_options_and_values_that_are_wrong_are_explained(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = call(capsys, *line.split(" "))
    assert (code, told in error) == (2, True), error


def test_warnings_are_lines_while_a_command_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = warnings.showwarning

    def warn(_: list[str]) -> int:
        warnings.warn("mind the gap")
        return 0

    monkeypatch.setattr(command.importlib, "import_module", lambda _: SimpleNamespace(main=warn))
    assert call(capsys, "fit") == (0, "", "ebt: warning: mind the gap\n")
    assert warnings.showwarning is before


def test_a_wrong_command_gets_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "fti") == (2, "", "ebt: error: there is no command 'fti': did you mean `ebt fit`?\n")
    code, _, error = call(capsys, "bake")
    assert code == 2
    assert "choose one of fit, plan, validate" in error


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (InputError("bad: do this."), 2, "ebt: error: bad: do this.\n"),
        (NonFiniteError("energy at step 1"), 2, "ebt: error: energy at step 1\n"),
        (MemoryError("9 TB"), 2, "ebt: error: not enough memory (9 TB): give smaller numbers.\n"),
        (KeyboardInterrupt(), 130, "ebt: interrupted\n"),
    ],
)
def test_errors_of_users_are_one_line(
    raised: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: list[str]) -> int:
        raise raised

    monkeypatch.setattr(command.importlib, "import_module", lambda _: SimpleNamespace(main=fail))
    assert call(capsys, "fit") == (code, "", line)
    with pytest.raises(type(raised)):
        command.main(["fit", "--debug"])


@pytest.mark.parametrize("raised", [ZeroDivisionError("x"), TypeError("x")])
def test_other_errors_are_not_hidden(raised: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: list[str]) -> int:
        raise raised

    monkeypatch.setattr(command.importlib, "import_module", lambda _: SimpleNamespace(main=fail))
    with pytest.raises(type(raised)):
        command.main(["fit"])


def test_arguments_and_the_exit_code_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def module(name: str) -> SimpleNamespace:
        def run(given: Any) -> int:
            seen[name] = given
            return 7

        main: Callable[[Any], int] = run
        return SimpleNamespace(main=main)

    monkeypatch.setattr(command.importlib, "import_module", module)
    assert command.main(["study", "--x", "1"]) == 7
    assert command.main(["solve", "--checkpoint", "x", "--steps", "3"]) == 7
    assert command.main(["test", "--checkpoint", "x", "--trainer.devices=2"]) == 7
    assert list(seen) == ["ebt.lab.studies.command", "ebt.cli.solve", "ebt.cli.validate"]
    assert seen["ebt.lab.studies.command"] == ["--x", "1"]
    assert (seen["ebt.cli.solve"].checkpoint, seen["ebt.cli.solve"].steps) == ("x", 3)
    assert (seen["ebt.cli.validate"].command, seen["ebt.cli.validate"].keys) == ("test", ["--trainer.devices=2"])
