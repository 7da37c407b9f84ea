"""Auto classes: here, and in fresh processes that have never imported this library."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from forked import begin
from hub_toys import VIDEO, make_all, make_ebt, make_ids, make_twin

from ebt.problems import models
from ebt.problems.folder import load_tokenizer_of, save_folder
from ebt.problems.language.tokenizers import byte_tokenizer
from ebt.problems.mazes.generator import generate

LOAD = """
import json, sys
assert not any(name.split(".")[0] == "ebt" for name in sys.modules)
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
results = []
for folder in sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("Think", return_tensors="pt")
    model.save_pretrained(folder + "-again")
    results.append([type(model).__module__, str(model.dtype), model.generate(**ids, max_new_tokens=6)[0].tolist()])
print(json.dumps(results))
"""


def run(script: str, *arguments: object, folder: Path, path: Sequence[Path] = ()) -> subprocess.CompletedProcess[str]:
    """A fresh process outside of the source tree, which finds modules in further folders first."""
    return begin("-c", script, *map(str, arguments), cwd=folder, path=path).ended()


@pytest.mark.parametrize("index", range(10))
def test_auto_classes_know_every_model(index: int, tmp_path: Path) -> None:
    model = make_all()[index]
    save_folder(model, tmp_path / "model")
    assert type(transformers.AutoConfig.from_pretrained(tmp_path / "model")) is type(model.config)
    loaded = getattr(transformers, model.auto_class).from_pretrained(tmp_path / "model")
    assert type(loaded) is models()[model.config.model_type] is type(model)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


CONTEXTS = {
    "ebt": make_ids(),
    "ebt_sudoku": torch.zeros(2, 16, dtype=torch.long),
    "ebt_mazes": torch.from_numpy(generate(7, 2).mazes).long().flatten(1),
    "ebt_images": torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    "ebt_video": torch.randn(2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("index", range(0, 10, 2))
def test_auto_classes_give_models_that_can_be_called(index: int, tmp_path: Path) -> None:
    model = make_all()[index]
    context = CONTEXTS[model.config.model_type]
    loaded = getattr(transformers, model.auto_class).from_pretrained(save_folder(model, tmp_path / "model"))
    answer = loaded.think(context, steps=3, candidates=2).answer
    torch.testing.assert_close(answer, model.think(context, steps=3, candidates=2).answer)
    torch.testing.assert_close(loaded.predict(context, steps=3, candidates=2), answer)
    called = loaded(context, steps=3, candidates=2)
    assert torch.isfinite(called[0]).all()
    assert len(called[0]) == len(context)


def test_fresh_process_loads_a_folder(tmp_path: Path) -> None:
    models = {"ebt": make_ebt(257), "twin": make_twin(257)}
    for name, model in models.items():
        save_folder(model, tmp_path / name, byte_tokenizer())
    process = run(LOAD, *(tmp_path / name for name in models), folder=tmp_path)
    assert process.returncode == 0, process.stderr
    ids = torch.tensor([list(b"Think")])
    for (name, model), (module, dtype, tokens) in zip(models.items(), json.loads(process.stdout), strict=True):
        assert module.startswith("ebt.problems.")
        assert dtype == "torch.float64"
        assert tokens == model.generate(ids, max_new_tokens=6)[0].tolist()
        again = tmp_path / f"{name}-again"
        assert {path.name for path in again.glob("*.py")} == {"modeling_ebt.py"}
        for file in ("config.json", "model.safetensors"):
            assert (again / file).read_bytes() == (tmp_path / name / file).read_bytes()


def another_ebt(folder: Path) -> list[Path]:
    """Where a package lies that has the same import name and nothing else in common."""
    (folder / "other" / "ebt").mkdir(parents=True)
    (folder / "other" / "ebt" / "__init__.py").write_text("__version__ = '9.9'\n")
    return [folder / "other"]


@pytest.mark.parametrize("other", [False, True], ids=["missing", "another package"])
def test_without_the_library_the_error_says_what_to_install(other: bool, tmp_path: Path) -> None:
    save_folder(make_ebt(), tmp_path / "model")
    path = another_ebt(tmp_path) if other else []
    script = ("" if other else "import sys; sys.modules['ebt'] = None\n") + LOAD.replace("assert not any", "any")
    process = run(script, tmp_path / "model", folder=tmp_path, path=path)
    assert process.returncode == 1
    last = process.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert "pip install '.[" in last
    assert "pip install ebt" not in process.stderr


def test_registered_classes_need_no_code_of_the_folder(tmp_path: Path) -> None:
    folder = save_folder(make_ebt(), tmp_path / "model")
    (folder / "modeling_ebt.py").write_text("raise SystemExit('code of the folder was run')")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    assert model(make_ids()).logits.shape == (2, 7, 23)


@pytest.mark.parametrize("index", range(10))
def test_saved_folders_carry_no_copy_of_the_source(index: int, tmp_path: Path) -> None:
    """Auto classes mark the classes that they find through a folder, whose source would then be copied into each new folder."""
    model = make_all()[index]
    type(model).register_for_auto_class(model.auto_class)
    type(model.config).register_for_auto_class()
    model.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("*.py")] == ["modeling_ebt.py"]


@pytest.mark.parametrize(
    ("index", "given", "named"),
    [
        (2, torch.zeros(0, 16), "at least one"),
        (2, torch.full((1, 16), 5), "digit 5"),
        (2, torch.tensor(3), r"shape \(\)"),
        (6, torch.zeros(0, 1, 8, 8), r"pixel_values has shape \(0, 1, 8, 8\)"),
        (6, torch.zeros(1, 8, 8), r"pixel_values has shape \(1, 8, 8\)"),
        (6, torch.zeros(1, 2, 8, 8), r"pixel_values has shape \(1, 2, 8, 8\)"),
        (6, "photo.png", "pixel_values is 'photo.png'"),
        (8, torch.zeros(0, 3, VIDEO["frame_dim"]), "frames has shape"),
        (8, torch.zeros(3, VIDEO["frame_dim"]), "frames has shape"),
        (8, torch.zeros(1, 3, 1), r"frames has shape \(1, 3, 1\)"),
    ],
)
def test_contexts_of_other_shapes_are_named(index: int, given: Any, named: str) -> None:
    model: Any = make_all()[index].eval()
    for call in (model, model.think, model.predict):
        with pytest.raises(ValueError, match=named):
            call(given, steps=1)


@pytest.mark.parametrize(("index", "shape"), [(6, (2, 1, 8, 8)), (8, (2, 3, VIDEO["frame_dim"]))])
def test_contexts_may_be_lists_and_arrays(index: int, shape: tuple[int, ...]) -> None:
    model: Any = make_all()[index].eval()
    given = torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape)
    for other in (given.tolist(), given.numpy()):
        assert torch.equal(model(other).prediction, model(given).prediction)


def test_tokenizers_know_the_context_of_their_model(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    folder = save_folder(make_ebt(257), tmp_path / "model", tokenizer)
    assert tokenizer.model_max_length > 10**9
    assert transformers.AutoTokenizer.from_pretrained(folder).model_max_length == 32
    tokenizer.save_pretrained(folder)  # as earlier versions did
    assert load_tokenizer_of(folder).model_max_length == 32
