from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ebt.errors import InputError
from ebt.problems.images.configuration import DiTImagesConfig, EBTImagesConfig
from ebt.problems.language.configuration import EBTConfig, TransformerPPConfig
from ebt.problems.sudoku.configuration import EBTSudokuConfig, SudokuTransformerConfig

CONFIGS: list[tuple[type, dict[str, Any]]] = [
    (EBTConfig, {"vocab_size": 9, "size": "nano", "heads": 2, "space": "mirror", "recipe": {"max_steps": 5}}),
    (TransformerPPConfig, {"size": "xxs", "context_length": 12}),
    (EBTSudokuConfig, {"board": 9, "conditioning": "prefix", "conditioned_steps": 2, "step_size": 7.0}),
    (SudokuTransformerConfig, {"board": 4, "loop": "hidden"}),
    (EBTImagesConfig, {"image_size": 32, "patch_size": 4, "num_channels": 1, "noise_level": 0.2, "step_size": 9.0}),
    (DiTImagesConfig, {"image_size": 32, "noise_levels": 50, "block": "llama"}),
]


@pytest.mark.parametrize(("config_class", "fields"), CONFIGS)
def test_round_trip(config_class: type, fields: dict[str, Any], tmp_path: Path) -> None:
    config = config_class(**fields)
    config.save_pretrained(tmp_path)
    again = config_class.from_pretrained(tmp_path)
    assert {name: getattr(again, name) for name in fields} == fields
    assert again.network() == config.network()
    assert again.to_dict() == config.to_dict()


def test_a_preset_gives_what_is_not_overridden() -> None:
    network = EBTConfig(size="xxs", layers=2).network()
    assert (network.layers, network.dim, network.heads) == (2, 384, 6)


def test_saved_configurations_keep_their_inner_width(tmp_path: Path) -> None:
    """Earlier versions built the paper's sizes with 8/3 of the width, and saved the inner width."""
    TransformerPPConfig(size="xxs").save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    saved = json.loads(file.read_text())
    assert (saved["size"], saved["ffn_dim"]) == ("xxs", 384)
    for stored, inner in (({"ffn_dim": 1024}, 1024), ({"ffn_dim": None}, 1024), ({"dim": 48, "ffn_dim": None}, 128)):
        file.write_text(json.dumps({**saved, **stored}))
        assert TransformerPPConfig.from_pretrained(tmp_path).network().hidden == inner
    del saved["ffn_dim"]
    assert TransformerPPConfig.from_dict(saved).ffn_dim == 1024
    assert TransformerPPConfig.from_dict({"size": "micro"}).ffn_dim == TransformerPPConfig().ffn_dim == 352


@pytest.mark.parametrize(("words", "given", "learns"), [(16_384, None, True), (16_385, None, False), (50_257, True, True)])
def test_large_vocabularies_omit_a_gradient_by_default(words: int, given: bool | None, learns: bool, tmp_path: Path) -> None:
    """What was chosen is saved, so that a model trains on as it did."""
    config = EBTConfig(words, **({} if given is None else {"input_gradient": given}))
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["input_gradient"] is learns
    assert EBTConfig.from_pretrained(tmp_path).input_gradient is config.input_gradient is learns


def test_names_that_other_libraries_read() -> None:
    config = EBTConfig(size="nano", context_length=77)
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (3, 64, 4)
    assert config.max_position_embeddings == TransformerPPConfig(context_length=77).max_position_embeddings == 77


@pytest.mark.parametrize(
    ("config_class", "fields", "message"),
    [
        (EBTConfig, {"size": "giant"}, "size is 'giant': choose one of nano"),
        (TransformerPPConfig, {"dim": 30}, "dim 30 must be a multiple"),
        (EBTConfig, {"conditioning": "suffix"}, "conditioning is 'suffix': choose one of"),
        (EBTConfig, {"space": "torus"}, "space is 'torus': choose one of"),
        (EBTConfig, {"steps": 0}, "steps is 0.*at least 1"),
        (EBTConfig, {"step_size": 0}, "step_size is 0: "),
        (EBTConfig, {"vocab_size": 0}, "vocab_size is 0: .*at least 1"),
        (TransformerPPConfig, {"context_length": 0}, "context_length is 0: .*at least 1"),
        (EBTConfig, {"recipe": {"min_steps": 4, "max_steps": 2}}, "min_steps 4 and max_steps 2"),
        (EBTConfig, {"recipe": {"stepps": 4}}, "stepps"),
        (EBTConfig, {"recipe": {"replay_size": 5, "replay_fraction": 0.5}}, "replay_size 5"),
        (EBTConfig, {"recipe": {"warm_start": 0.5}}, "does not know the progress of training"),
        (EBTSudokuConfig, {"board": 5}, "board is 5: choose one of 4, 6, 9"),
        (SudokuTransformerConfig, {"board": 16}, "board is 16: choose one of"),
        (SudokuTransformerConfig, {"loop": "twice"}, "loop is 'twice': choose one of"),
        (EBTImagesConfig, {"image_size": 30, "patch_size": 8}, "image_size 30, patch_size 8.*a multiple of patch_size"),
        (DiTImagesConfig, {"num_channels": 4}, "num_channels 4.*1 or 3 channels"),
        (EBTImagesConfig, {"space": "mirror"}, "space is 'mirror': choose one of euclidean"),
        (EBTImagesConfig, {"noise_level": 0}, "noise_level is 0: "),
        (DiTImagesConfig, {"noise_level": 1.5}, "noise_level is 1.5: .*at most 1"),
        (DiTImagesConfig, {"noise_levels": 5}, "noise_levels is 5: .*at least 21"),
        (DiTImagesConfig, {"dim": 6, "heads": 1}, "dim 6 must be a multiple of 4"),
    ],
)
def test_bad_fields_are_named(config_class: type, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        config_class(**fields)


def test_the_training_recipe_starts_as_inference_does_unless_told() -> None:
    assert EBTConfig(start_std=0.25).training_recipe().start_std == 0.25
    assert EBTConfig(start_std=0.25, recipe={"start_std": 2.0}).training_recipe().start_std == 2.0


def test_thinking_options_stand_beside_the_others_and_in_files_of_earlier_versions() -> None:
    config = EBTConfig(steps=5, candidates=2, candidate_noise=0.1, start_seed=3)
    assert (config.thinking["steps"], config.thinking["candidates"]) == (5, 2)
    assert (config.thinking["noise"], config.thinking["seed"]) == (0.1, 3)
    again = EBTConfig.from_dict(config.to_dict())
    assert again.thinking == config.thinking


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"hidden": 256}, "hidden"),
        ({"stepz": 3}, "stepz.*steps"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"steps": "3"}, "steps is '3'"),
        ({"seed": float("nan")}, "seed is nan"),
        ({"rope_theta": []}, r"rope_theta is \[\]"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"rule": "foo"}, "rule is 'foo'"),
        ({"update": "sideways"}, "update is 'sideways'"),
        ({"stop": "never"}, "stop is 'never'"),
        *(
            ({"stop": text}, r"stop is '.*\)': its arguments must be numbers or texts in Python syntax$")
            for text in ("change(x)", "change(nan)", "change(0.1 0.2)", "change(--)")
        ),
        *(
            ({"stop": text}, r": its arguments do not fit, it takes tolerance$")
            for text in ("energy()", "change('x')", "change(1, 2)")
        ),
        ({"update": "mirror(3)"}, "its arguments do not fit, it takes none$"),
        ({"update": "os.system('false')"}, "update is .*ebt.thinking.Update"),
        ({"space": "subprocess.Popen"}, "space is .*ebt.thinking.Geometry"),
        ({"stop": "subprocess.Popen('false')"}, "stop is .*__call__"),
        ({"dtype": 3}, "dtype is 3"),
        ({"dtype": float("inf")}, "dtype is inf"),
        ({"torch_dtype": "int8"}, "dtype is .int8."),
    ],
)
def test_every_field_is_checked(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        EBTConfig(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        *({"tolerance": 10**30}, {"clamp": 10**400}, {"dtype": []}, {"dtype": "int8"}, {"dtype": float("nan")}),
        *(
            {"layers": 10**9},
            {"id2label": 3},
            {"architectures": "x"},
            {"num_labels": -1},
            {"steps": 10**9},
            {"recipe": {"max_steps": "2"}},
        ),
    ],
)
def test_values_that_no_model_could_use_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(fields))):
        EBTConfig(**fields)
