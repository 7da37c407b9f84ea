"""Model folders: exact round trips, atomic saving, and an error that names each thing that can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_toys import CONDITIONINGS, make_all, make_ebt, make_ids, make_twin
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ebt.errors import InputError
from ebt.models.base import HubModel
from ebt.problems.folder import load_folder, load_tokenizer_of, save_folder
from ebt.problems.language.ebt import EBTForCausalLM
from ebt.problems.language.tokenizers import byte_tokenizer
from ebt.problems.language.transformer_pp import TransformerPPForCausalLM
from ebt.problems.sudoku.models import EBTForSudoku

pytestmark = pytest.mark.slow

FILES = {"checksums.json", "config.json", "model.safetensors", "modeling_ebt.py"}


def assert_same_weights(one: HubModel, other: HubModel) -> None:
    left, right = one.state_dict(), other.state_dict()
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        assert torch.equal(left[name], right[name]), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("index", range(10))
def test_round_trip(index: int, dtype: torch.dtype, tmp_path: Path) -> None:
    model = make_all()[index].to(dtype)
    folder = save_folder(model, tmp_path / "new" / "model")
    assert {file.name for file in folder.iterdir()} - {"generation_config.json"} == FILES
    loaded = load_folder(folder)
    assert type(loaded) is type(model)
    assert not loaded.training
    assert_same_weights(model, loaded)
    again = save_folder(loaded, tmp_path / "again")
    for file in folder.iterdir():
        assert file.read_bytes() == (again / file.name).read_bytes(), file.name


@pytest.mark.parametrize("config", CONDITIONINGS.values(), ids=CONDITIONINGS)
def test_a_loaded_model_generates_the_same(config: dict[str, Any], tmp_path: Path) -> None:
    model, ids = make_ebt(**config), make_ids()
    model.generation_config.update(steps=4, candidates=2, allow_custom_entries=True)
    expected = model.generate(ids, max_new_tokens=6)
    loaded = load_folder(save_folder(model, tmp_path / "model"), expect="ebt")
    assert torch.equal(loaded.generate(ids, max_new_tokens=6), expected)
    assert loaded.generation_config.steps == 4


def test_a_folder_can_be_replaced_and_found_in_a_run(tmp_path: Path) -> None:
    save_folder(make_ebt(seed=1), tmp_path / "run" / "model")
    save_folder(make_twin(), tmp_path / "run" / "model")
    assert isinstance(load_folder(tmp_path / "run"), TransformerPPForCausalLM)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["model"]


def test_sharded_weights_load(tmp_path: Path) -> None:
    model = make_ebt()
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_same_weights(load_folder(tmp_path), model)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), auto=st.booleans())
def test_every_flipped_bit_of_the_weights_is_noticed(place: float, bit: int, auto: bool, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    file = folder / "model.safetensors"
    if not folder.exists():
        save_folder(make_twin(), folder)
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[int(place * len(whole))] ^= 1 << bit
    file.write_bytes(flipped)
    try:
        with pytest.raises(InputError, match=r"model\.safetensors|weights in"):
            _ = TransformerPPForCausalLM.from_pretrained(folder) if auto else load_folder(folder)
    finally:
        file.write_bytes(whole)
    load_folder(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "[1]", "null", "\0"])
def test_checksums_that_cannot_be_read_are_named(text: str, tmp_path: Path) -> None:
    folder = save_folder(make_twin(), tmp_path / "model")
    (folder / "checksums.json").write_text(text)
    with pytest.raises(InputError, match=r"checksums\.json cannot be read"):
        load_folder(folder)
    (folder / "checksums.json").unlink()  # as in folders of earlier versions
    load_folder(folder)


def test_a_missing_file_of_weights_is_named(tmp_path: Path) -> None:
    model = make_ebt()
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    gone = sorted(tmp_path.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(InputError, match=f"{gone.name} is missing"):
        EBTForCausalLM.from_pretrained(tmp_path)


def break_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saving fails when half of the files are written."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", fail)


def break_writing_in_rust(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library of weights has no exception for a full disk."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", fail)


def break_renaming(monkeypatch: pytest.MonkeyPatch) -> None:
    """The new folder cannot take the old one's place."""
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name.endswith(".new"):
            raise OSError("Input/output error")
        return rename(self, target)

    monkeypatch.setattr("ebt.files._exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", fail)


@pytest.mark.parametrize("sabotage", [break_writing, break_writing_in_rust, break_renaming])
def test_a_failure_leaves_the_old_folder(
    sabotage: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = make_ebt(257, seed=1), make_ebt(257, seed=2)
    save_folder(old, tmp_path / "model", byte_tokenizer())
    sabotage(monkeypatch)
    with pytest.raises(InputError, match="model cannot be written"):
        save_folder(new, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    monkeypatch.undo()
    assert_same_weights(load_folder(tmp_path / "model"), old)
    load_tokenizer_of(tmp_path / "model")


def test_other_peoples_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(InputError, match="is not a model folder"):
        save_folder(make_ebt(), tmp_path)
    with pytest.raises(InputError, match="is not a model folder"):
        save_folder(make_ebt(), tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "precious"


def test_the_tokenizer_comes_along(tmp_path: Path) -> None:
    model = make_ebt(257)
    folder = save_folder(model, tmp_path / "model", byte_tokenizer())
    tokenizer = load_tokenizer_of(folder)
    text = "Grüße, 世界\n\t!"
    assert tokenizer(text)["input_ids"] == list(text.encode())
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert load_folder(folder).generation_config.eos_token_id == tokenizer.eos_token_id == 256


def edit_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")
    (folder / "checksums.json").unlink()


def cut(folder: Path, share: float) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def drop_all(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors)[1:]:
        del tensors[name]


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "has a config.json"),
    "broken configuration": (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
    "odd configuration": (lambda folder: (folder / "config.json").write_text("[]"), "config.json is not a JSON object"),
    "bad field": (lambda folder: edit_config(folder, space="torus"), "config.json: space is 'torus'"),
    "bad sizes": (lambda folder: edit_config(folder, heads=3), "config.json: dim 16 must be a multiple"),
    "foreign model": (lambda folder: edit_config(folder, model_type="gpt2"), "of type 'gpt2', but 'ebt' or .* is needed"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
    "cut in the data": (lambda folder: cut(folder, 0.9), "model.safetensors is damaged or cut short"),
    "cut in the header": (lambda folder: cut(folder, 0.01), "model.safetensors is damaged or cut short"),
    "empty weights": (lambda folder: cut(folder, 0), "model.safetensors is damaged or cut short"),
    "missing tensor": (lambda folder: edit_weights(folder, lambda t: t.pop("words.weight")), "they lack words.weight[.;]"),
    "missing tensors": (lambda folder: edit_weights(folder, drop_all), r"they lack (\S+, ){2}\S+ and \d+ more"),
    "unexpected tensor": (
        lambda folder: edit_weights(folder, lambda t: t.update(extra=torch.zeros(1))),
        "have the unexpected extra[.;]",
    ),
    "other shape": (
        lambda folder: edit_weights(folder, lambda t: t.update({"words.weight": torch.zeros(2, 2)})),
        r"have other shapes in words.weight \(2, 2\), not \(257, 16\)",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_folders_are_refused(what: str, tmp_path: Path) -> None:
    folder = save_folder(make_ebt(257), tmp_path / "model")
    damage, message = DAMAGE[what]
    damage(folder)
    with pytest.raises(InputError, match=message):
        load_folder(folder)


def test_transformers_own_loading_leaves_no_weight_to_chance(tmp_path: Path) -> None:
    folder = save_folder(make_ebt(257), tmp_path / "model")
    edit_weights(folder, lambda tensors: tensors.pop("network.blocks.1.attention.key.weight"))
    with pytest.raises(InputError, match=r"checkpoint lacks network.blocks.1.attention.key.weight"):
        EBTForCausalLM.from_pretrained(folder)


def test_missing_folders_are_named(tmp_path: Path) -> None:
    for load in (load_folder, load_tokenizer_of):
        with pytest.raises(InputError, match=r"not a directory: .*nowhere"):
            load(tmp_path / "nowhere")
        with pytest.raises(InputError, match=r"neither .* nor .*model has a config.json"):
            load(tmp_path)
    (tmp_path / "run of an own task" / "checkpoints").mkdir(parents=True)
    with pytest.raises(InputError, match=r"run of an own task is a run without a model folder.*ebt validate"):
        load_folder(tmp_path / "run of an own task")


def test_other_models_than_expected_are_refused(tmp_path: Path) -> None:
    folder = save_folder(make_twin(), tmp_path / "model")
    for expect in ("ebt", EBTForCausalLM, ("ebt", EBTForSudoku)):
        with pytest.raises(InputError, match=r"of type 'ebt_transformer_pp', but 'ebt'.* is needed"):
            load_folder(folder, expect=expect)
    assert isinstance(load_folder(folder, expect=("ebt", TransformerPPForCausalLM)), TransformerPPForCausalLM)


def test_tokenizers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tokenizer has 257 tokens, but the model has 23"):
        save_folder(make_ebt(), tmp_path / "model", byte_tokenizer())
    assert not (tmp_path / "model").exists()
    folder = save_folder(make_ebt(), tmp_path / "model")
    with pytest.raises(InputError, match="has no tokenizer"):
        load_tokenizer_of(folder)
    byte_tokenizer().save_pretrained(folder)
    with pytest.raises(InputError, match="tokenizer has 257 tokens, but the model has 23"):
        load_tokenizer_of(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be read"):
        load_tokenizer_of(folder)
