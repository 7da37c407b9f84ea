"""Tokenizers: exact round trips, and the same tokenizer again after saving."""

from __future__ import annotations

import json
import re
from pathlib import Path

import huggingface_hub.constants
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ebt.errors import InputError
from ebt.problems.language.corpora import Document
from ebt.problems.language.tokenizers import byte_tokenizer, encode, load_tokenizer, train_bpe, vocabulary_size

DOCUMENTS = [Document("the cat sat on the mat. " * 9, "where is the cat? "), Document("the dog sat on the cat. " * 9)]
BYTES = byte_tokenizer()
BPE = train_bpe(DOCUMENTS, 270)
texts = st.text(max_size=50)


@given(texts)
@example("spaces  stay . , n't 's\r\n\t\x00 <|endoftext|> \U0001f600 e\u0301")
def test_text_survives(text: str) -> None:
    for tokenizer in (BYTES, BPE):
        ids = encode(tokenizer, [text])[0]
        assert tokenizer.decode(ids) == text
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids


@given(st.text(alphabet="aä😀 \n", max_size=50))
def test_byte_tokens_are_the_bytes(text: str) -> None:
    assert encode(BYTES, [text]) == [list(text.encode())]


def test_vocabulary_is_bytes_and_separator() -> None:
    assert vocabulary_size(BYTES) == len(BYTES) == 257
    assert [BYTES.bos_token_id, BYTES.eos_token_id, BYTES.pad_token_id] == [256] * 3
    assert BYTES.convert_ids_to_tokens(256) == "<|endoftext|>"


def test_bpe_merges_what_is_frequent() -> None:
    assert vocabulary_size(BPE) == len(BPE) == 270
    assert len(encode(BPE, ["the cat sat"])[0]) <= 3
    assert train_bpe(DOCUMENTS, 270).get_vocab() == BPE.get_vocab()
    assert "where" in train_bpe([Document("it.", "where " * 9)], 261).get_vocab()  # prompts are learned from as well
    assert BPE.convert_ids_to_tokens(BPE.eos_token_id) == "<|endoftext|>"


@pytest.mark.parametrize("tokenizer", [BYTES, BPE], ids=["bytes", "bpe"])
def test_saved_tokenizer_is_the_same(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    text = "the cat , sat  'nt <|endoftext|> ä"
    folder = str(tmp_path)
    for loaded in (AutoTokenizer.from_pretrained(folder), load_tokenizer(folder), load_tokenizer(folder + "/tokenizer.json")):
        assert loaded.get_vocab() == tokenizer.get_vocab()
        assert encode(loaded, [text]) == encode(tokenizer, [text])
        assert loaded.decode(encode(loaded, [text])[0]) == text
        assert loaded.eos_token_id == tokenizer.eos_token_id
        assert loaded.clean_up_tokenization_spaces is False


def test_saved_truncation_padding_and_clean_up_are_off(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.clean_up_tokenization_spaces = True
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=8)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert [loaded.decode(ids) for ids in encode(loaded, ["one , two", "a"])] == ["one , two", "a"]


def test_vocabulary_size_counts_added_tokens() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<answer>"])
    assert vocabulary_size(tokenizer) == 258


def test_vocabulary_that_cannot_be_filled() -> None:
    with pytest.raises(InputError, match="vocab_size=256"):
        train_bpe(DOCUMENTS, 256)
    with pytest.warns(UserWarning, match="vocab_size=5000"):
        tokenizer = train_bpe(DOCUMENTS, 5000)
    assert 270 < vocabulary_size(tokenizer) == len(tokenizer) < 5000


def test_what_the_tokenizer_puts_around_texts() -> None:
    tokenizer = byte_tokenizer()
    template = TemplateProcessing("<s> $A <|endoftext|>", special_tokens=[("<s>", 257), ("<|endoftext|>", 256)])
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.backend_tokenizer.post_processor = template
    assert tokenizer("ab").input_ids == [257, 97, 98, 256]
    assert encode(tokenizer, ["ab", ""]) == [[257, 97, 98], [257]]
    assert encode(tokenizer, ["ab"], begin=False) == [[97, 98]]


@pytest.mark.parametrize("spec", ["byte", "owner/name", "/nowhere/at/all", "malformed.json", "", "tokenizers/mine"])
def test_unknown_tokenizer(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    Path("malformed.json").write_text("{}")
    Path("tokenizers").mkdir()
    with pytest.raises(InputError, match=f"(The tokenizer '|no such file or folder: ){re.escape(spec)}") as refusal:
        load_tokenizer(spec)
    assert Path(spec).exists() or str(refusal.value).startswith("no such f")


def test_tokenizer_without_separator(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    byte_tokenizer().save_pretrained(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"added_tokens": []}))
    with pytest.raises(InputError, match=r"no end-of-text token.*Set its eos_token"):
        load_tokenizer(str(path))
