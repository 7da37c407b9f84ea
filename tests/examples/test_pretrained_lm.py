"""The example with a tiny random language model: it starts at the model's loss, and thinking lowers it."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

EXAMPLE = Path(__file__).parents[2] / "examples" / "pretrained_lm.py"


@pytest.fixture
def folder(tmp_path: Path) -> str:
    words = {word: i for i, word in enumerate(["[UNK]", "the", "cat", "sat", "on", "mat", "."])}
    tokenizer = Tokenizer(models.WordLevel(words, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(tmp_path)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=7, initializer_range=0.3, **shape)).save_pretrained(tmp_path)
    return str(tmp_path)


def test_it_learns_to_think(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat . " * 60)
    options = ["--layers", "1", "--updates", "30", "--context", "8", "--learning-rate", "0.003"]
    before, after = runpy.run_path(str(EXAMPLE))["main"]([folder, str(text), *options])
    assert before == pytest.approx([before[0]] * 5, abs=1e-4)
    assert after[0] == pytest.approx(before[0], abs=1e-5)  # the language model's own answer
    assert max(after[1:]) < before[0] - 0.1
    assert "after training, loss after 0 to 4 steps" in capsys.readouterr().out


def test_a_text_that_is_too_short_is_refused(folder: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat sat")
    with pytest.raises(SystemExit, match="longer text"):
        runpy.run_path(str(EXAMPLE))["main"]([folder, str(text)])
