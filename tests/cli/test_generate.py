from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from forked import program
from small_models import CONTEXT, language_ebt, language_folder, sudoku_folder
from tokenizers.processors import TemplateProcessing

from ebt.cli.main import main
from ebt.problems.folder import save_folder
from ebt.problems.language.tokenizers import byte_tokenizer

PROMPT = "The fox"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return language_folder(tmp_path_factory.mktemp("language") / "model")


def test_a_process_streams_the_text_and_tells_statistics(folder: str) -> None:
    command = ["-m", "ebt.cli.main", "generate", "--checkpoint", folder, "--prompt", PROMPT, "--greedy"]
    thinking = ["--steps", "2", "--candidates", "3", "--max-new-tokens", "6", "--seed", "7"]
    done = program(*command, *thinking)
    ids = torch.tensor([list(PROMPT.encode())])
    output = language_ebt().generate(
        ids, max_new_tokens=6, do_sample=False, steps=2, candidates=3, seed=7, return_dict_in_generate=True, pad_token_id=256
    )
    assert done.stdout.strip() == byte_tokenizer().decode(output.sequences[0]).strip()
    energy = sum(float(energies[-1]) for energies in output.energies) / 6
    told = re.search(r"\[6 tokens in .* tokens/s, 2\.0 steps per token, mean energy (\S+)\]", done.stderr)
    assert told, done.stderr
    assert float(told[1]) == pytest.approx(energy, rel=1e-3)


def test_sampling_is_decided_by_the_seed(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    def text(*options: str) -> str:
        assert main(["generate", "--checkpoint", folder, "--prompt", PROMPT, "--steps", "1", *options]) == 0
        return capsys.readouterr().out

    first, again, other = text("--seed", "1"), text("--seed", "1"), text("--seed", "2")
    assert first == again != other
    assert text("--seed", "1", "--top-k", "1") == text("--seed", "1", "--greedy")


def test_the_prompt_may_come_from_a_file(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("naïve\n", encoding="utf-8")
    assert main(["generate", "--checkpoint", folder, "--prompt-file", str(file), "--max-new-tokens", "2"]) == 0
    assert capsys.readouterr().out.startswith("naïve\n")


@pytest.mark.parametrize(("length", "new"), [(20, 9), (CONTEXT + 5, 2)])
def test_past_the_context_a_window_slides_with_a_notice(
    length: int, new: int, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "--checkpoint", folder, "--prompt", "x" * length, "--max-new-tokens", str(new)]) == 0
    told = capsys.readouterr().err
    assert f"contexts of {CONTEXT} tokens" in told
    assert f"[{new} tokens" in told


def test_prompts_begin_as_training_documents_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="z $A", special_tokens=[("z", ord("z"))])
    save_folder(language_ebt(), tmp_path / "model", tokenizer)
    assert (
        main(["generate", "--checkpoint", str(tmp_path / "model"), "--prompt", "x", "--greedy", "--max-new-tokens", "6"]) == 0
    )
    expected = language_ebt().generate(torch.tensor([[ord("z"), ord("x")]]), max_new_tokens=6, pad_token_id=256)[0, 2:]
    assert capsys.readouterr().out.strip() == f"x{tokenizer.decode(expected)}".strip()


def test_a_tolerance_may_end_thinking_early(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every change is below 1, the largest total variation distance."""
    options = ["--steps", "9", "--tolerance", "1.5", "--max-new-tokens", "3"]
    assert main(["generate", "--checkpoint", folder, "--prompt", PROMPT, *options]) == 0
    assert ", 1.0 steps per token" in capsys.readouterr().err


def test_a_smaller_step_size_writes_another_text(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    def text(*options: str) -> str:
        assert main(["generate", "--checkpoint", folder, "--prompt", PROMPT, "--max-new-tokens", "12", *options]) == 0
        return capsys.readouterr().out

    assert text("--step-size-scale", "1") == text()
    assert text("--step-size-scale", "0.01") != text()
    assert text("--candidates", "3", "--candidate-noise", "9") != text("--candidates", "3")


def test_a_feed_forward_model_writes_but_does_not_think(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twin = language_folder(tmp_path / "twin", twin=True)
    assert main(["generate", "--checkpoint", twin, "--prompt", PROMPT, "--max-new-tokens", "3"]) == 0
    assert "steps" not in capsys.readouterr().err
    assert main(["generate", "--checkpoint", twin, "--prompt", PROMPT, "--steps", "3"]) == 2
    assert "does not think: leave out --steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", ""], "The prompt is empty"),
        (["--prompt-file", "nowhere.txt"], "nowhere.txt cannot be read"),
        (["--prompt", "x", "--prompt-file", "y"], "not allowed with argument"),
        ([], "--prompt --prompt-file is required"),
        (["--prompt", "x", "--greedy", "--top-k", "3", "--temperature", "2"], "--greedy contradicts --temperature, --top-k"),
        (["--prompt", "x", "--steps", "0"], "--steps: '0' is not an integer of at least 1"),
        (["--prompt", "x", "--temperature", "0"], "--temperature: 0 .*--greedy"),
        (["--prompt", "x", "--temperature", "-1"], "--temperature: '-1' is not a number above 0"),
        (["--prompt", "x", "--top-p", "1.5"], "--top-p: '1.5' is not a number above 0 and at most 1"),
        (["--prompt", "x", "--tolerance", "nan"], "--tolerance: 'nan' is not a number of at least 0"),
        (["--prompt", "x", "--rule", "best"], "--rule: invalid choice: 'best'"),
        (["--prompt", "x", "--step", "3"], r"unrecognized arguments: --step 3. Did you mean --steps\?"),
    ],
)
def test_bad_input_is_named_with_its_remedy(
    folder: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "--checkpoint", folder, *options]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_model_of_another_kind_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--checkpoint", sudoku_folder(tmp_path / "sudoku"), "--prompt", "x"]) == 2
    assert "'ebt_sudoku'" in capsys.readouterr().err
