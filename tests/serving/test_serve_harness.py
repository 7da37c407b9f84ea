"""lm-evaluation-harness through the server finds what it finds in the model itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from forked import begin
from small_models import CONTEXT, language_folder

pytest.importorskip("lm_eval")
pytest.importorskip("tenacity")

TASKS = """
task: toy_{kind}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
doc_to_target: " yes"
"""
CHOICE = """doc_to_choice: ["yes", "no"]
doc_to_target: 0
"""
GENERATE = """generation_kwargs:
  until: ["Q"]
  max_gen_toks: 5
  do_sample: false
metric_list:
  - metric: exact_match
"""
PROGRAM = """
import json, sys
import lm_eval
from lm_eval.tasks import TaskManager
folder, address, out, context = sys.argv[1:]
tasks = TaskManager(include_path="tasks", include_defaults=False)
here = {"pretrained": folder, "trust_remote_code": True}
there = {"model": "tiny", "base_url": address + "/v1/completions", "tokenizer": folder, "max_length": int(context),
         "num_concurrent": 2, "tokenizer_backend": "huggingface"}
found = []
for model, arguments in (("hf", here), ("local-completions", there)):
    results = lm_eval.simple_evaluate(model, arguments, ["toy_multiple_choice", "toy_generate_until"], task_manager=tasks,
                                      batch_size=2, device="cpu", bootstrap_iters=0)
    found.append({task: [row["resps"] for row in rows] for task, rows in results["samples"].items()})
json.dump(found, open(out, "w"))
"""


@pytest.mark.slow
def test_loglikelihoods_and_texts_are_the_same(server: tuple[str, Any], tmp_path: Path) -> None:
    folder = language_folder(tmp_path / "model")
    (tmp_path / "tasks").mkdir()
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"question": q}) + "\n" for q in ("Is it so?", "And now, is it?", "Sure?")))
    for kind, more in (("multiple_choice", CHOICE), ("generate_until", GENERATE)):
        text = TASKS.format(kind=kind, data=data)
        text = text.replace('doc_to_target: " yes"\n', "") if kind == "multiple_choice" else text
        (tmp_path / "tasks" / f"{kind}.yaml").write_text(text + more)
    program = ["-c", PROGRAM, folder, server[0], str(tmp_path / "found.json"), str(CONTEXT)]
    begin(*program, cwd=tmp_path, env={"HF_DATASETS_CACHE": str(tmp_path / "data")}).ended(200, check=True)
    here, there = json.loads((tmp_path / "found.json").read_text())
    assert there["toy_generate_until"] == here["toy_generate_until"]
    for ours, theirs in zip(there["toy_multiple_choice"], here["toy_multiple_choice"], strict=True):
        for (served,), (direct,) in zip(ours, theirs, strict=True):
            assert float(served[0]) == pytest.approx(float(direct[0]), abs=1e-3)
            assert served[1] == direct[1]
