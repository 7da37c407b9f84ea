from __future__ import annotations

from pathlib import Path

import pytest
from forked import program
from small_models import full_disk

from ebt.cli.main import main
from ebt.problems.language.corpora import open_source, split_documents
from ebt.problems.language.tokenizers import encode, load_tokenizer, train_bpe


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for i in range(10):
        (folder / f"{i}.txt").write_text(f"the naïve fox {i} sees the other fox, and the fox runs. " * 5, encoding="utf-8")
    return folder


def test_a_process_trains_on_the_training_documents_and_tells_bytes_per_token(corpus: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "bpe", ["--vocab-size", "270", "--fractions", "0.6,0.2,0.2", "--seed", "5"]
    command = ["-m", "ebt.cli.main", "tokenizer", "--data", str(corpus), "--out", str(out), *options]
    done = program(*command)
    splits = split_documents(list(open_source(str(corpus))["train"]), (0.6, 0.2, 0.2), seed=5)
    expected, saved = train_bpe(splits["train"], 270), load_tokenizer(str(out))
    assert saved.get_vocab() == expected.get_vocab()
    for name, documents in splits.items():
        texts = [document.text for document in documents]
        size, tokens = sum(len(text.encode()) for text in texts), sum(len(ids) for ids in encode(saved, texts))
        (row,) = [line.split() for line in done.stdout.splitlines() if line.split()[:1] == [name]]
        assert row == [name, str(len(texts)), f"{size:,}", f"{tokens:,}", f"{size / tokens:.3f}"]


def test_a_small_file_and_its_bad_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "small.jsonl", tmp_path / "bpe"
    path.write_text('{"text": "the fox"}\n' * 42 + "bad\n", encoding="utf-8")
    command = ["tokenizer", "--data", str(path), "--vocab-size", "1024", "--out", str(out)]
    assert main([*command, "--on-error", "refuse"]) == 2
    capsys.readouterr()
    assert main(command) == 0
    assert 257 < len(load_tokenizer(str(out))) < 1024
    told = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert ["line 43" in line for line in told] == [True, False]
    assert "vocab_size=1024" in told[1]


def test_a_full_disk_is_told(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with full_disk(500):
        code = main(["tokenizer", "--data", str(corpus), "--vocab-size", "270", "--out", str(tmp_path / "bpe")])
    assert code == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_split_of_the_source_itself_is_left_out(tmp_path: Path) -> None:
    for name in ("train", "test"):
        text = "the training fox runs " if name == "train" else "zzzz zzzz zzzz zzzz "
        (tmp_path / f"{name}.jsonl").write_text(f'{{"text": "{text * 9}"}}\n' * 5, encoding="utf-8")
    assert main(["tokenizer", "--data", str(tmp_path), "--vocab-size", "262", "--out", str(tmp_path / "bpe")]) == 0
    assert not any("zz" in token for token in load_tokenizer(str(tmp_path / "bpe")).get_vocab())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--vocab-size", "100"], "Give at least 257"),
        (["--vocab-size", "270", "--fractions", "0.9,x"], "--fractions '0.9,x': give three numbers"),
        (["--vocab-size", "270", "--fractions", "0.9,0.9,0.9"], "cannot split a corpus"),
        (["--vocab-size", "270", "--fractions", "1,0"], "Give three shares"),
        ([], "--vocab-size"),
    ],
)
def test_bad_input_is_named_with_its_remedy(
    corpus: Path, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tokenizer", "--data", str(corpus), "--out", str(tmp_path / "bpe"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "bpe").exists()


def test_a_folder_with_something_in_it_is_left_alone(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokenizer", "--data", str(corpus), "--vocab-size", "270", "--out", str(corpus)]) == 2
    assert "is not empty: choose a new folder" in capsys.readouterr().err
    assert len(list(corpus.iterdir())) == 10
