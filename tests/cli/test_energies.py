from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from forked import program
from matplotlib.image import imread
from small_models import CONTEXT, close, language_ebt, language_folder

from ebt.cli.main import main
from ebt.files import finite
from ebt.problems.language.energies import token_energies
from ebt.problems.language.tokenizers import byte_tokenizer

TEXT = "A naïve fox\nruns."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return language_folder(tmp_path_factory.mktemp("language") / "model")


def test_a_process_writes_energies_and_their_heat_map(folder: str, tmp_path: Path) -> None:
    command = ["-m", "ebt.cli.main", "energies", "--checkpoint", folder, "--text", TEXT]
    options = ["--steps", "4", "--seed", "3", "--out", str(tmp_path / "new" / "out")]
    done = program(*command, *options)
    read = json.loads((tmp_path / "new" / "out" / "energies.json").read_text())
    assert close(read, finite(token_energies(language_ebt(), byte_tokenizer(), TEXT, 4, seed=3)))
    assert imread(tmp_path / "new" / "out" / "energies.png").shape[1] >= 800
    means = [sum(row) / len(row) for row in read["energies"]]
    row = re.search(r"^ energy +(.*)", done.stdout, re.MULTILINE)
    assert row
    assert [float(number) for number in row[1].split()] == pytest.approx(means, rel=1e-3)
    assert f"{len(TEXT.encode())} tokens, {sum(read['nats']) / len(read['nats']):.3f} nats per token" in done.stdout


def test_the_most_surprising_tokens_are_listed_first(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["energies", "--checkpoint", folder, "--text", TEXT]) == 0
    nats = token_energies(language_ebt(), byte_tokenizer(), TEXT, 3).nats
    listed = [int(place) for place in re.findall(r"^ +(\d+) .*\.\d\d ", capsys.readouterr().out, re.MULTILINE)]
    assert listed == sorted(range(1, len(nats) + 1), key=lambda place: -nats[place - 1])[:10]


def test_tokens_are_coloured_by_energy_in_a_terminal(
    folder: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    assert main(["energies", "--checkpoint", folder, "--text", TEXT, "--steps", "2"]) == 0
    energies = token_energies(language_ebt(), byte_tokenizer(), TEXT, 2).energies[-1]
    coloured = capsys.readouterr().out.split("colour:")[0]
    runs = re.findall(r"48;2;(\d+;\d+;\d+)m", coloured)
    assert len(runs) == len(TEXT.encode()) - 1  # a line break cannot be coloured
    assert runs[min(range(11), key=lambda i: energies[i])] == "68;1;84" or min(energies) not in energies[:11]


def test_a_text_from_a_file(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("ab\n", encoding="utf-8")
    assert main(["energies", "--checkpoint", folder, "--file", str(tmp_path / "text.txt"), "--steps", "20"]) == 0
    assert "3 tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text", ""], "The text has 0 tokens: give 1 to"),
        (["--text", "x" * (CONTEXT + 1)], f"The text has {CONTEXT + 1} tokens: give 1 to {CONTEXT}"),
        (["--file", "nowhere.txt"], "nowhere.txt cannot be read"),
        ([], "--text --file is required"),
        (["--text", "x", "--steps", "-1"], "--steps: '-1' is not an integer"),
        (["--text", "x", "--out", "/dev/null/x"], "--out /dev/null/x cannot be created"),
    ],
)
def test_bad_input_is_named_with_its_remedy(
    folder: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["energies", "--checkpoint", folder, *options]) == 2
    assert message in capsys.readouterr().err


def test_a_feed_forward_model_has_no_energies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["energies", "--checkpoint", language_folder(tmp_path / "twin", twin=True), "--text", "x"]) == 2
    assert "'ebt' is needed" in capsys.readouterr().err
