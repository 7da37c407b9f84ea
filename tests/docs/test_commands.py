"""Every line of a command in documents, configurations and helps has options that the command takes."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest

from ebt.cli.main import COMMANDS, LAB, main
from ebt.cli.options import options_of
from ebt.cli.training import configure
from ebt.problems.registry import configurations

ROOT = Path(__file__).parents[2]
PLACES = ("*.md", "api/*.md", "guides/*.md", "results/*.md", "start/*.ipynb")
DOCUMENTS = [path for place in PLACES for path in sorted((ROOT / "docs").glob(place))]
FILES = [ROOT / "README.md", *DOCUMENTS, *sorted((ROOT / "ebt").rglob("configs/*.yaml"))]
OF_A_RUN = ("--name", "--out")
"""Options of ``ebt fit`` beside the configuration."""
FLAGS = ("--check-gradients", "--compile")
"""Others, which have no value."""
TRAINING = ("fit", "validate", "test", "plan")
"""Commands that take the keys of a configuration, too: of ``fit`` these are checked where it is one of the library's."""
KEYS = ("--config", "--model", "--data", "--print_config")


def commands(text: str) -> list[str]:
    """Lines that begin with the command, joined where they go on."""
    joined = re.sub(r"\\\n#?\s*", " ", text)
    return re.findall(r"^#?[ ]{2,}(ebt [a-z].*?)(?:[ ]{2,}#.*)?$", joined, re.MULTILINE)


def text_of(path: Path) -> str:
    """The text of a document; of a notebook, that between its code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    return "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")


def help_of(name: str) -> str:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        main([name, "--help"])
    return shown.getvalue()


DOCUMENTED = sorted({(line, path.name) for path in FILES for line in commands(text_of(path))})


def unknown(line: str) -> list[str]:
    """Options of a line that its command does not take; a key of a configuration is one that has a dot.

    Raises:
        InputError: a value that is wrong, or an option that is missing.
    """
    name, *options = shlex.split(line)[1:]
    configs = [options[i + 1] for i, option in enumerate(options) if option == "--config"]
    if name == "fit" and configs and all(config in configurations() or Path(config).exists() for config in configs):
        configure(_without([option for option in options if option not in FLAGS], OF_A_RUN))
    if name == "study":
        parser, options = importlib.import_module(LAB[name])._options(options[0]), options[1:]
    else:
        parser = importlib.import_module(LAB[name])._options() if name in LAB else options_of(name)
    _, left = parser.parse_known_args(options)
    left = [option for option in left if option.startswith("-")]
    return [option for option in left if "." not in option and option not in KEYS] if name in TRAINING else left


def _without(options: list[str], names: tuple[str, ...]) -> list[str]:
    return [option for i, option in enumerate(options) if option not in names and (i == 0 or options[i - 1] not in names)]


@pytest.mark.parametrize(("line", "where"), DOCUMENTED)
def test_documents(line: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert unknown(line) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_helps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    shown = help_of(name)
    examples = [line for line in commands(shown[shown.index("example") :]) if not line.startswith(f"ebt {name} [-h]")]
    assert examples
    assert [option for line in examples for option in unknown(line)] == []


def test_an_option_that_no_command_takes_is_found() -> None:
    assert unknown("ebt think --checkpoint runs/x --candidate 3") == ["--candidate"]
    assert unknown("ebt validate --checkpoint runs/x --limits 3 --trainer.limit_val_batches 1") == ["--limits"]
