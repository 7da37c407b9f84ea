"""lm-evaluation-harness, through its own command, on a saved folder and local tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import begin
from hub_toys import make_ebt

from ebt.problems.folder import save_folder
from ebt.problems.language.tokenizers import byte_tokenizer

pytest.importorskip("lm_eval")

OPTIONS: dict[str, Any] = {
    "steps": 3,
    "candidates": 2,
    "rule": "mean",
    "noise": 0.1,
    "noise_steps": 2,
    "step_size_scale": 0.5,
    "clamp": 2.0,
    "tolerance": 0.001,
    "stop": "energy(1e-9)",
    "start_std": 0.5,
    "seed": 3,
    "mean_from": 2,
}
"""Every field of ``Thinking``."""
ARGS = ",".join(f"{name}={value}" for name, value in OPTIONS.items())
CHOICE = """
task: toy_choice
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["yes", "no"]
doc_to_target: "{{{{answer}}}}"
target_delimiter: " "
"""
GENERATE = """
task: toy_generate
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: ["Q"]
  max_gen_toks: 5
  do_sample: false
metric_list:
  - metric: exact_match
"""
COMMAND = """
import functools
import lm_eval.tasks
lm_eval.tasks.TaskManager.__init__ = functools.partialmethod(lm_eval.tasks.TaskManager.__init__, include_defaults=False)
from lm_eval.__main__ import cli_evaluate
cli_evaluate()
"""
"""The program ``lm_eval``, without the 14,000 files of its own tasks, which take it 15 s to read."""


def write_tasks(folder: Path) -> list[dict[str, str]]:
    rows = [{"question": question, "answer": "yes"} for question in ("Is it so?", "And now, is it so?", "Sure?")]
    folder.mkdir()
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "toy_choice.yaml").write_text(CHOICE.format(data=data))
    (folder / "toy_generate.yaml").write_text(GENERATE.format(data=data))
    return rows


@pytest.mark.slow
def test_the_harness_scores_and_generates(tmp_path: Path) -> None:
    """One run of both tasks: its loglikelihoods and texts are those of the model called directly."""
    model = make_ebt(257).float()
    save_folder(model, tmp_path / "model", byte_tokenizer())
    rows = write_tasks(tmp_path / "tasks")
    command = ["-c", COMMAND, "--model", "hf", "--tasks", "toy_choice,toy_generate"]
    command += ["--model_args", f"pretrained={tmp_path / 'model'},trust_remote_code=True,{ARGS}"]
    command += ["--include_path", str(tmp_path / "tasks"), "--device", "cpu", "--batch_size", "2"]
    command += ["--output_path", str(tmp_path / "out"), "--log_samples"]
    begin(*command, cwd=tmp_path, env={"HF_DATASETS_CACHE": str(tmp_path / "data")}).ended(280, check=True)
    samples = {
        task: [json.loads(line) for line in next((tmp_path / "out").rglob(f"samples_{task}_*.jsonl")).open()]
        for task in ("toy_choice", "toy_generate")
    }
    for sample, row in zip(samples["toy_choice"], rows, strict=True):
        found = [float(response[0][0]) for response in sample["resps"]]
        assert found == pytest.approx([loglikelihood(model, row["question"], f" {word}") for word in ("yes", "no")], abs=1e-3)
    for sample, row in zip(samples["toy_generate"], rows, strict=True):
        ids = torch.tensor([list(row["question"].encode())])
        tokens = model.generate(ids, max_new_tokens=5, pad_token_id=256, **OPTIONS)[0, ids.shape[1] :].tolist()
        text = byte_tokenizer().decode([token for token in tokens if token != 256])
        assert sample["resps"][0][0] == text.split("Q")[0]


def loglikelihood(model: torch.nn.Module, question: str, answer: str) -> float:
    ids = list((question + answer).encode())
    logits = model(torch.tensor([ids[:-1]]), **OPTIONS).logits[0].log_softmax(-1)
    return sum(logits[i - 1, ids[i]].item() for i in range(len(question), len(ids)))
