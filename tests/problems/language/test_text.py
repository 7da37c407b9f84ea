"""The DataModule: what it reports, refuses, hands out, and how a run resumes with a real trainer."""

from __future__ import annotations

import json
import pickle
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import ModelCheckpoint
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from ebt.errors import InputError
from ebt.problems.language.corpora import Document, documents_sha256, python_docs
from ebt.problems.language.data import TextDataModule
from ebt.problems.language.tokenizers import train_bpe

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*ModelCheckpoint.*", "ignore:.*Checkpoint directory"
)


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("book") / "book.txt"
    path.write_text("".join(f"Paragraph {number} has number {number}.\n\n" for number in range(1500)))
    return str(path)


def write_questions(path: Path, count: int = 40, answer: str = "{}") -> str:
    rows = [{"question": f"{number}+{number}=", "text": answer.format(2 * number)} for number in range(count)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


# what it gives


def test_embedded_corpus_is_the_default() -> None:
    data = TextDataModule()
    statistics = data.statistics()
    assert statistics["source"] == "python-docs"
    assert statistics["sha256"] == documents_sha256(python_docs())
    assert statistics["vocab_size"] == data.vocab_size == 257
    assert sum(statistics["documents"].values()) == len(python_docs())
    size = sum(len(document.text.encode()) + 1 for document in python_docs())
    assert sum(statistics["tokens"].values()) == size
    assert statistics["contexts"]["train"] == -(-(statistics["tokens"]["train"] - 1) // 256)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        batch = next(iter(loader))
        assert batch["input_ids"].shape == batch["targets"].shape == (16, 256)
        assert torch.equal(batch["input_ids"][:, 1:], batch["targets"][:, :-1])


def test_splits_hold_other_documents(book: str) -> None:
    data = TextDataModule(book, context_length=32, batch_size=7, evaluation_batch_size=3, fractions=(0.6, 0.2, 0.2))
    data.prepare()
    texts = {
        name: "".join(
            data.tokenizer.decode(row["targets"][row["targets"] >= 0]) for batch in loader for row in split_rows(batch)
        )
        for name, loader in (("validation", data.val_dataloader()), ("test", data.test_dataloader()))
    }
    assert len(set(texts["validation"].split("\n\n")) & set(texts["test"].split("\n\n"))) <= 2  # "" and a cut first line
    assert next(iter(data.val_dataloader()))["input_ids"].shape == (3, 32)
    assert [len(batch["input_ids"]) for batch in data.train_dataloader()][-1] == 7  # incomplete batches are left out
    assert TextDataModule(book, fractions=(1, 0, 0)).val_dataloader() == []


def split_rows(batch: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    return [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]


def test_prompts_are_masked(tmp_path: Path) -> None:
    source = write_questions(tmp_path / "sums.jsonl")
    data = TextDataModule(source, prompt_field="question", context_length=12, batch_size=100)
    assert data.statistics()["documents"] == {"train": 36, "validation": 2, "test": 2}
    batch = next(iter(data.train_dataloader()))  # the only batch is not left out, though incomplete
    assert batch["input_ids"].shape == (36, 12)
    for row in split_rows(batch):
        learned = row["targets"][row["targets"] != -100]
        prompt = data.tokenizer.decode(row["input_ids"]).split("=")[0]
        assert data.tokenizer.decode(learned) == f"{2 * int(prompt.split('+')[0])}<|endoftext|>"


def test_cuts_are_told_and_counted(tmp_path: Path) -> None:
    source = write_questions(tmp_path / "sums.jsonl", answer="{} is the answer")
    data = TextDataModule(source, prompt_field="question", context_length=8, fractions=(1, 0, 0))
    with pytest.warns(UserWarning, match="40 document"):
        data.prepare()
    assert data.statistics()["cuts"] == {"train": {"truncated": 40}}


def test_sources_of_their_own(tmp_path: Path, book: str) -> None:
    (tmp_path / "validation.txt").write_text("only for validation " * 20)
    data = TextDataModule(book, validation_source=str(tmp_path / "validation.txt"), context_length=16)
    statistics = data.statistics()
    assert statistics["tokens"]["validation"] == 401
    assert statistics["documents"]["test"] == 1
    assert statistics["documents"]["train"] == TextDataModule(book, fractions=(1, 0, 0)).statistics()["documents"]["train"] - 1


def test_dataset_with_splits_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "dataset"
    folder.mkdir()
    for split, count in (("train", 50), ("test", 7)):
        write_questions(folder / f"{split}.jsonl", count)
    data = TextDataModule(str(folder), text_field="question", context_length=4)
    assert data.statistics()["documents"] == {"train": 48, "validation": 2, "test": 7}
    own = TextDataModule(str(folder / "train.jsonl"), test_source=str(folder), text_field="question", context_length=4)
    assert own.statistics()["documents"]["test"] == 7
    with pytest.raises(InputError, match=r"validation_source=.*no 'validation'. Give another source"):
        TextDataModule(str(folder), validation_source=str(folder), text_field="question").prepare()


@pytest.mark.parametrize(("unused", "dtype"), [(0, np.uint16), (70000, np.uint32)])
def test_saved_tokenizer(tmp_path: Path, book: str, unused: int, dtype: type) -> None:
    train_bpe([Document("a number of a number")], 260).save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"] |= {f"unused {number}": 260 + number for number in range(unused)}
    path.write_text(json.dumps(content))
    data = TextDataModule(book, tokenizer=str(tmp_path), context_length=16)
    data.prepare()
    assert data.vocab_size == 260 + unused
    assert "has number" in data.tokenizer.decode(next(iter(data.val_dataloader()))["input_ids"].flatten())
    assert data.train_dataloader().dataset.tokens.dtype == dtype  # type: ignore[attr-defined]


def test_builds_from_plain_settings(book: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TextDataModule, "data")
    settings = parser.parse_args(["--data.source", book, "--data.fractions", "[0.8, 0.1, 0.1]", "--data.context_length=8"])
    data = TextDataModule(**settings.data)
    assert data.statistics()["context_length"] == 8
    assert dict(data.hparams) == vars(settings.data)


def test_order_depends_on_seed_and_epoch_alone(book: str) -> None:
    def batches(seed: int, epoch: int) -> torch.Tensor:
        loader = TextDataModule(book, context_length=32, seed=seed, fractions=(1, 0, 0)).train_dataloader()
        loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
        return torch.cat([batch["input_ids"] for batch in loader])

    first = batches(0, 0)
    state = torch.get_rng_state()
    assert torch.equal(batches(0, 0), first)
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn from the global generator
    assert not torch.equal(batches(0, 1), first)
    assert not torch.equal(batches(1, 0), first)


@pytest.fixture
def llama(tmp_path: Path) -> str:
    """A saved tokenizer that begins each text with <s> and ends it with its end-of-text token."""
    tokenizer = train_bpe([Document("a number of a number")], 260)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    ends = [("<s>", 260), ("<|endoftext|>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<s> $A <|endoftext|>", special_tokens=ends)
    tokenizer.save_pretrained(tmp_path / "llama")
    return str(tmp_path / "llama")


@pytest.mark.parametrize("streaming", [False, True])
def test_documents_begin_as_the_tokenizer_begins_texts(tmp_path: Path, llama: str, streaming: bool) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(3):
        (tmp_path / "texts" / f"{number}.txt").write_text("a number")
    settings: dict[str, Any] = {"tokenizer": llama, "fractions": (1, 0, 0), "streaming": streaming}
    ids = AutoTokenizer.from_pretrained(llama)("a number").input_ids
    data = TextDataModule(str(tmp_path / "texts"), context_length=3 * len(ids) - 1, batch_size=1, **settings)
    (batch,) = data.train_dataloader()
    assert [*batch["input_ids"][0].tolist(), int(batch["targets"][0, -1])] == 3 * ids  # one end-of-text token each
    source = write_questions(tmp_path / "sums.jsonl", 1)
    data = TextDataModule(source, prompt_field="question", context_length=20, **settings)
    (batch,) = data.train_dataloader()
    prompt = AutoTokenizer.from_pretrained(llama)("0+0=").input_ids[:-1]  # no end between prompt and answer
    assert batch["input_ids"][0, : len(prompt)].tolist() == prompt
    assert data.tokenizer.decode(batch["targets"][batch["targets"] >= 0]) == "0<|endoftext|>"


def test_conversations_are_written_by_the_chat_template(tmp_path: Path, llama: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
        "[{{ m.role }}]{{ m.content }}{% endfor %}{{ eos_token }}"
    )
    tokenizer.save_pretrained(llama)
    rows = [{"messages": [{"role": role, "content": "a number"}]} for role in ("user", "tool")]
    (tmp_path / "chat.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = TextDataModule(str(tmp_path / "chat.jsonl"), tokenizer=llama, context_length=12, fractions=(1, 0, 0))
    with pytest.warns(UserWarning, match="line 2.*no tools"):
        data.prepare()
    assert data.tokenizer.decode(data.train_dataloader().dataset.tokens) == "<s>[user]a number<|endoftext|>"  # type: ignore[attr-defined]


def test_short_file_needs_no_settings(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("".join(f"Paragraph {number} of a short text.\n\n" for number in range(12)))
    data = TextDataModule(str(tmp_path / "short.txt"))
    with pytest.warns(UserWarning, match="12 paragraphs"):
        assert data.statistics()["documents"] == {"train": 10, "validation": 1, "test": 1}
    assert [next(iter(loader))["input_ids"].shape[1] for loader in (data.val_dataloader(), data.test_dataloader())] == [256] * 2


def test_datasets_are_pickled_for_workers(tmp_path: Path, book: str, llama: str) -> None:
    for source in (book, write_questions(tmp_path / "sums.jsonl"), str(tmp_path / "llama")):
        for streaming in (False, True):
            data = TextDataModule(source, tokenizer=llama, text_field="text", context_length=4, streaming=streaming)
            if source.endswith("llama"):
                (tmp_path / "llama" / "more.txt").write_text("a number")
            dataset = data.train_dataloader().dataset
            first, again = next(iter(dataset)), next(iter(pickle.loads(pickle.dumps(dataset))))
            assert torch.equal(first["input_ids"], again["input_ids"])


# streams


def test_stream_holds_what_the_source_holds(book: str) -> None:
    data = TextDataModule(book, context_length=16, streaming=True, fractions=(0.5, 0.25, 0.25))
    assert data.statistics()["tokens"] == {}
    total = 0
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        total += sum(int((batch["targets"] >= 0).sum()) for batch in loader) + 1
    assert total == sum(TextDataModule(book, context_length=16).statistics()["tokens"].values())
    whole = TextDataModule(book, context_length=16, streaming=True, fractions=(1, 0, 0))
    assert whole.val_dataloader() == []
    beforehand = TextDataModule(book, context_length=16, fractions=(1, 0, 0)).train_dataloader().dataset
    assert torch.equal(next(iter(whole.train_dataloader()))["targets"][3], beforehand[3]["targets"])


# refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"context_length": 0}, "context_length=0 is too small"),
        ({"batch_size": 0}, "batch_size=0 is too small"),
        ({"evaluation_batch_size": 0}, "evaluation_batch_size=0 is too small"),
        ({"seed": -1}, "must not be negative"),
        ({"num_workers": -1}, "must not be negative"),
        ({"fractions": (0.5, 0.1, 0.1)}, "add up to 1"),
        ({"on_error": "no"}, "on_error='no'"),
    ],
)
def test_senseless_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TextDataModule(**settings)


@pytest.mark.parametrize("streaming", [False, True])
def test_too_short_for_a_context(tmp_path: Path, streaming: bool) -> None:
    path = tmp_path / "short.txt"
    path.write_text("x" * 99)
    settings: dict[str, Any] = {"fractions": (1, 0, 0), "streaming": streaming}
    with pytest.raises(InputError, match=r"train documents of .*short.txt have 100 tokens.*context_length=100 .*smaller"):
        TextDataModule(str(path), context_length=100, **settings).prepare()
    TextDataModule(str(path), context_length=99, **settings).prepare()


@pytest.mark.filterwarnings("ignore:.*left out because the prompt")
@pytest.mark.parametrize("streaming", [False, True])
def test_prompts_that_fill_the_context(tmp_path: Path, streaming: bool) -> None:
    source = write_questions(tmp_path / "sums.jsonl")
    with pytest.raises(InputError, match=r"leaves room for an answer in context_length=3. Raise"):
        TextDataModule(source, prompt_field="question", context_length=3, streaming=streaming).prepare()


def test_bad_sources_and_tokenizers(tmp_path: Path, book: str) -> None:
    for settings, message in (
        ({"source": str(tmp_path / "nothing.txt")}, "no such file"),
        ({"validation_source": str(tmp_path / "nothing.txt")}, "no such file"),
        ({"tokenizer": str(tmp_path / "nothing")}, "no such file"),
        ({"prompt_field": "question"}, "Remove prompt_field"),
    ):
        with pytest.raises(InputError, match=message):
            TextDataModule(**{"source": book, **settings}).prepare()
    with pytest.raises(InputError, match=r"no test documents. Give a test_source"):
        TextDataModule(book, fractions=(1, 0, 0)).test_dataloader()


# resuming


class Recorder(pl.LightningModule):
    """Keeps the batches that it is trained on; fails at the batch number `fail_at`."""

    def __init__(self, fail_at: int = -1) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[torch.Tensor] = []
        self.fail_at = fail_at

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        if len(self.seen) == self.fail_at:
            raise RuntimeError("interrupted")
        self.seen.append(batch["input_ids"].clone())
        return self.weight * batch["input_ids"].double().mean()

    def validation_step(self, batch: dict[str, torch.Tensor], index: int) -> None:
        assert batch["input_ids"].shape[1] == 64

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    source: str,
    folder: Path,
    checkpoint: ModelCheckpoint | None = None,
    resume: Path | str | None = None,
    fail_at: int = -1,
    data: dict[str, Any] | None = None,
    **limits: Any,
) -> list[torch.Tensor]:
    model = Recorder(fail_at)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=checkpoint is not None,
        callbacks=checkpoint,
        default_root_dir=folder,
        **limits,
    )
    module = TextDataModule(source, context_length=64, batch_size=100, **(data or {}))
    with pytest.raises(RuntimeError, match="interrupted") if fail_at >= 0 else nullcontext():
        trainer.fit(model, module, ckpt_path=resume)
    return model.seen


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


@pytest.mark.parametrize("data", [{}, {"streaming": True}], ids=["packed", "stream"])
@pytest.mark.parametrize(
    "limits",
    [
        {"max_epochs": 2},
        {"max_steps": 9},
        {"max_epochs": 3, "limit_train_batches": 3},
        {"max_epochs": 2, "val_check_interval": 2},
    ],
    ids=["epochs", "steps", "limited epochs", "validation"],
)
def test_interrupted_run_sees_the_same_batches(book: str, tmp_path: Path, data: dict[str, Any], limits: dict[str, Any]) -> None:
    checkpoint = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole = fit(book, tmp_path, checkpoint, data=data, **limits)
    assert len(whole) >= 9
    steps = range(1, len(whole), 2) if "max_epochs" in limits else range(2, len(whole), 3)
    for step in steps:
        rest = fit(book, tmp_path, resume=tmp_path / f"step={step}.ckpt", data=data, **limits)
        assert same(rest, whole[step:]), f"resumed at step {step}"


@pytest.mark.parametrize("data", [{}, {"streaming": True}], ids=["packed", "stream"])
def test_run_goes_on_after_failure_and_after_its_last_step(book: str, tmp_path: Path, data: dict[str, Any]) -> None:
    whole = fit(book, tmp_path, data=data, max_steps=11)
    failure = ModelCheckpoint(tmp_path / "failed", save_on_exception=True, every_n_train_steps=99)
    before = fit(book, tmp_path, failure, fail_at=7, data=data, max_steps=11)
    after = fit(book, tmp_path, resume=next((tmp_path / "failed").iterdir()), data=data, max_steps=11)
    assert same(before + after, whole)
    short = ModelCheckpoint(tmp_path / "short")
    before = fit(book, tmp_path, short, data=data, max_steps=7)
    after = fit(book, tmp_path, resume=short.best_model_path, data=data, max_steps=11)
    assert same(before + after, whole)


def test_resuming_with_other_batches_is_refused(book: str, tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    fit(book, tmp_path, checkpoint, max_steps=4)
    with pytest.raises(InputError, match=r"'seed': 0.*'seed': 1.*same settings"):
        fit(book, tmp_path, resume=tmp_path / "step=2.ckpt", data={"seed": 1}, max_steps=4)
