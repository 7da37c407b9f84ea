"""The benchmark of an adopted language model, with a tiny random one."""

from __future__ import annotations

import json
from pathlib import Path

import adopt
import answers
import pytest
import torch
from matplotlib.image import imread
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ebt.errors import InputError

WORDS = ["[UNK]", "Question:", "Answer:", "one", "two", "three", "four", "plus", "is"]
SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 7}


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), initializer_range=0.3, **SHAPE)).save_pretrained(folder)
    row = json.dumps({"question": "one plus two is", "answer": "three #### 3"})
    (folder / "text.jsonl").write_text(f"{row}\n" * 400, encoding="utf-8")
    sizes = ["--context", "8", "--contexts", "16", "--tests", "8", "--updates", "4", "--steps", "2", "--longest", "3"]
    text = str(folder / "text.jsonl")
    return ["--model", str(folder), "--train", text, "--test", text, "--seeds", "1", *sizes]


def test_all_ways_are_measured_against_the_feed_forward_adapter(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = [name for name, arm in adopt.ARMS.items() if arm.layers == 6]
    command = [
        *options,
        "--out",
        str(tmp_path),
        "--json",
        str(tmp_path / "all.json"),
        "--picture",
        str(tmp_path / "all.png"),
        "--arms",
        *arms,
    ]
    assert adopt.main(command) == 0
    found = {one["arm"]: one for one in json.loads((tmp_path / "all.json").read_text())["results"]}
    assert list(found) == arms
    for name, one in found.items():
        assert one["loss"][0] > 0
        assert one["against feed-forward"]["low"] <= one["against feed-forward"]["mean"] <= one["against feed-forward"]["high"]
        assert ("energy" in one["judged"]) is not name.startswith("feed")
    assert len(found["thinks"]["longer"]) == 4
    assert found["feed-forward"]["updates"] == found["thinks, equal updates"]["updates"] == [4]
    assert imread(tmp_path / "all.png").shape[1] == 800
    out = capsys.readouterr().out
    made = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*-0.json")}
    assert len(made) == len(arms)
    assert adopt.main(command) == 0
    assert capsys.readouterr().out == out
    assert made == {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*-0.json")}

    judged_answers(options, tmp_path, capsys)


def judged_answers(options: list[str], runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sampled answers, scored by these runs."""
    command = [*options[:6], "--questions", "3", "--samples", "2", "--together", "2", "--out", str(runs / "answers")]
    assert answers.main(command) == 0
    assert "majority of the numbers" in capsys.readouterr().out
    assert answers.main([*command, "--runs", str(runs), "--json", str(runs / "answers.json")]) == 0
    rows = {row["choice"]: row for row in json.loads((runs / "answers.json").read_text())["results"]}
    assert {"thinks: energy, sum", "thinks: likelihood, mean", "ranks the likeliest tokens: energy, mean"} <= set(rows)
    assert all(0 <= row["low"] <= row["right"] <= row["high"] <= 1 for row in rows.values())


def test_the_most_frequent_number_wins() -> None:
    assert answers.majority(["4", None, "1,000", "4"]) == 0
    assert answers.majority([None, "7", None]) == 1
    assert answers.number("so 1 + 1 = 2 #### $1,234.") == "1234"
    assert answers.number("no number") is None
    assert answers.trimmed("is 2\n#### 2\nQuestion: next") == "is 2\n#### 2"


def test_runs_that_are_missing_are_named(options: list[str], tmp_path: Path) -> None:
    command = [*options[:6], "--questions", "1", "--samples", "2", "--out", str(tmp_path), "--runs", str(tmp_path)]
    with pytest.raises(InputError, match=r"feed-forward-0\.pt"):
        answers.main(command)


def test_before_training_all_answer_as_the_language_model(options: list[str]) -> None:
    model, tokenizer = adopt.load(options[1])
    rows = adopt.windows(options[3], tokenizer, slice(None), 4, 8)
    data = adopt.features(model, rows, [1], "test")
    base = adopt.base_of(data, adopt.Run(model, adopt.ARMS["feed-forward"], 0).geometry)["loss"]
    for arm in (adopt.ARMS[name] for name in ("feed-forward", "thinks", "thinks over frozen context")):
        for told in adopt.Run(model, arm, 0).measure(data, 2):
            assert torch.allclose(told["loss"], base, atol=0.1)  # bfloat16


def test_too_few_layers_are_refused(options: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="7 layers"):
        adopt.main([*options, "--out", str(tmp_path), "--arms", "thinks, 12 layers"])
