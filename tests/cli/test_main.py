"""The dispatcher: one table, imports when they are needed, errors in one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
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
        def run(argv: list[str]) -> int:
            seen[name] = argv
            return 7

        main: Callable[[list[str]], int] = run
        return SimpleNamespace(main=main)

    monkeypatch.setattr(command.importlib, "import_module", module)
    assert command.main(["solve", "--x", "1"]) == 7
    assert seen == {"ebt.cli.solve": ["--x", "1"]}
