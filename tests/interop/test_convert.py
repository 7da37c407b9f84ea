"""``ebt convert``: checkpoints of the published code, by the oracle beside this file, as model folders."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import published
import pytest
import record
import torch
import yaml
from published import Draws
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from ebt.cli.main import main
from ebt.problems.folder import load_folder
from ebt.problems.images.models import DiTForImages, EBTForImages
from ebt.problems.language import configuration
from ebt.problems.language.ebt import EBTForCausalLM
from ebt.problems.language.transformer_pp import TransformerPPForCausalLM
from ebt.thinking import Places

FORMS: dict[str, dict[str, Any]] = {
    "default": {},
    "time_embed": {"ebt_type": "time_embed", "mcmc_num_steps": 3},
    "adaln": {"ebt_type": "adaln"},
    "adaln_zero": {"ebt_type": "adaln_zero"},
    "probabilities": {"vocab_to_embed_uses_prob_dist": True},
    "no softmax": {"normalize_initial_condition": False, "ebt_type": "time_embed"},
}
WORDS = "abcdefghijkl"
PARITY = Path(__file__).parents[1] / "data" / "parity"


def hparams(**changes: Any) -> dict[str, Any]:
    return {**record.HPARAMS, "tokenizer": "someone/somewhere", **changes}


def weights(h: dict[str, Any], **kind: Any) -> dict[str, Tensor]:
    found = record.make_weights(h, **kind)
    if h["vocab_to_embed_uses_prob_dist"]:
        del found["vocab_to_embed.weight"]
    return found


def checkpoint(path: Path, h: dict[str, Any], state: dict[str, Tensor], prefix: str = "model.") -> Path:
    named = {f"{prefix}{name}": value for name, value in state.items()}
    torch.save({"state_dict": named, "hyper_parameters": h, "global_step": 7, "optimizer_states": [{"lr": 0.1}]}, path)
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """13 words: 0 ends a text, the others are letters."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<|endoftext|>", *WORDS])}, unk_token="a"))
    words.pre_tokenizer, words.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    end = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=words, **end).save_pretrained(folder)
    return str(folder)


def convert(path: Path, out: Path, tokenizer: str | None = None) -> Any:
    assert main(["convert", str(path), str(out), *([] if tokenizer is None else ["--tokenizer", tokenizer])]) == 0
    return load_folder(out)


@pytest.mark.parametrize("prefix", ["model.", "model._orig_mod."])
@pytest.mark.parametrize("form", FORMS)
def test_a_converted_model_thinks_what_the_published_one_thinks(form: str, prefix: str, tmp_path: Path) -> None:
    h = hparams(**FORMS[form])
    state = weights(h)
    model = convert(checkpoint(tmp_path / "last.ckpt", h, state, prefix), tmp_path / "model").double()
    ids = record.make_inputs()["input_ids"]
    start = torch.randn(len(ids), ids.shape[1] - 1, record.VOCAB, dtype=torch.float64)
    task = published.text({name: value.double() for name, value in state.items()}, h, ids)
    expected = published.forward(
        {name: value.double() for name, value in state.items()}, h, task, lambda _: start, Draws([]), training=False
    )
    geometry, update, landscape, now = model.geometry(), model.update(), model.landscape(ids[:, :-1]), start
    for i in range(h["mcmc_num_steps"]):
        view = geometry.view(now).detach().requires_grad_()
        energy = landscape(view, i)
        torch.testing.assert_close(energy, expected[f"energy.{i}"], rtol=1e-9, atol=1e-9)
        (gradient,) = torch.autograd.grad(energy.sum(), view)
        now = update.move(now, update.direction(geometry, now, gradient), model.step_size(), None)[0].detach()
        torch.testing.assert_close(now, expected[f"logits.{i}"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_greedy_text_is_the_published_models_with_a_cache_or_without(form: str, tmp_path: Path) -> None:
    h = hparams(**FORMS[form])
    state = {name: value.double() for name, value in weights(h).items()}
    model = convert(checkpoint(tmp_path / "last.ckpt", h, weights(h)), tmp_path / "model").double()
    ids = torch.tensor([[3, 7], [5, 1]])
    cached, uncached = (
        model.generate(ids, max_new_tokens=3, do_sample=False, use_cache=use, pad_token_id=12, eos_token_id=None)
        for use in (True, False)
    )
    for _ in range(3):  # the published code thinks about the whole prefix again for each token
        start = model.geometry().start(tuple(ids.shape), 1.0, Places(model.thinking.seed, 1).at(-1))
        task = published.text(state, h, torch.cat((ids, ids[:, :1]), 1))  # the last is a target that is not used
        found = published.forward(state, h, task, lambda _, start=start: start, Draws([]), training=False)
        ids = torch.cat((ids, found[f"logits.{h['mcmc_num_steps'] - 1}"][:, -1].argmax(-1, keepdim=True)), 1)
    assert torch.equal(cached, uncached)
    assert torch.equal(cached, ids)


def test_a_converted_text_model_works_in_every_command(tokenizer: str, tmp_path: Path, capsys: Any) -> None:
    h = hparams(**record.S2RAND, ebt_type="time_embed", context_length=12, mcmc_replay_buffer=True)
    folder, text = tmp_path / "model", tmp_path / "text.txt"
    convert(checkpoint(tmp_path / "last.ckpt", h, weights(h)), folder, tokenizer)
    assert "13" not in capsys.readouterr().err
    text.write_text("abcdefghijklabcdefghijkl\n\n" * 20)
    checked = ["--checkpoint", str(folder)]
    assert main(["validate", *checked, "--data", str(text)]) == 0
    assert main(["generate", *checked, "--prompt", "abc", "--greedy", "--max-new-tokens", "3"]) == 0
    assert main(["think", *checked, "--data", str(text), "--out", str(tmp_path / "think")]) == 0
    assert main(["energies", *checked, "--text", "abcdef"]) == 0
    told = capsys.readouterr().out
    assert "own steps (4)" in told  # one on the first landscape, three on the last: as its validation was
    data = [f"--data.{name}={text}" for name in ("source", "validation_source")]
    data += ["--data.fractions=[1, 0, 0]", "--data.batch_size=2"]
    further = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.limit_val_batches=1"]
    assert main(["fit", f"--config={folder / 'recipe.yaml'}", "--out", str(tmp_path / "run"), *data, *further]) == 0
    trained = load_folder(tmp_path / "run")
    assert not torch.equal(trained.words.weight, load_folder(folder).words.weight)
    assert trained.config.space == "reference"
    assert isinstance(AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True), EBTForCausalLM)


def test_the_recipe_is_that_of_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "LARGE_VOCABULARY", 3)
    h = hparams(**record.S2RAND, mcmc_replay_buffer=True, clamp_futures_grad=True)
    model = convert(checkpoint(tmp_path / "last.ckpt", h, weights(h)), tmp_path / "model")
    assert model.config.input_gradient
    recipe = yaml.safe_load((tmp_path / "model" / "recipe.yaml").read_text())["model"]["init_args"]["recipe"]
    assert {name: value for name, value in recipe.items() if name not in ("rows_at_once", "second_order", "nudge")} == {
        "min_steps": 2,
        "max_steps": 3,
        "landscapes": 2,
        "repeated": "all",
        "gradients": "truncated",
        "loss": "last",
        "step_size_spread": 2.0,
        "noise": 3.0,
        "start_std": 1.0,
        "clamp": 9.0 / 5.0,
        "replay_size": 192,
        "replay_fraction": 0.5,
        "warm_start": 0.0,
        "burn_in": 0,
        "burn_in_start": 0.0,
        "ranking": 0.0,
    }


def test_twins_and_video_models_convert(tmp_path: Path) -> None:
    h = hparams(model_name="baseline_transformer")
    twin = convert(checkpoint(tmp_path / "twin.ckpt", h, weights(h)), tmp_path / "twin")
    assert isinstance(twin, TransformerPPForCausalLM)
    h = hparams(modality="VID")
    state = weights(h, frames=record.ENCODER) | {"image_encoder.layer.weight": torch.ones(3)}
    video = convert(checkpoint(tmp_path / "video.ckpt", h, state), tmp_path / "video")
    assert (video.config.frame_dim, video.config.noise_in) == (record.ENCODER, "view")
    thought = video.think(torch.zeros(1, 4, record.ENCODER), steps=2)
    assert thought.state.shape == (1, 4, record.ENCODER)


@pytest.mark.parametrize(("case", "kind"), [("img_ebt", EBTForImages), ("img_dit", DiTForImages)])
def test_image_models_convert(case: str, kind: type[Any], tmp_path: Path) -> None:
    h = json.loads((PARITY / f"{case}.json").read_text())["hparams"]
    state = load_file(PARITY / f"{case}.weights.safetensors")
    model = convert(checkpoint(tmp_path / "last.ckpt", h, state), tmp_path / "model")
    assert isinstance(model, kind)
    image = load_file(PARITY / f"{case}.inputs.safetensors")["image"]
    output = model.think(image, steps=2).state if kind is EBTForImages else model(image, torch.zeros(2).long())[:, :3]
    assert output.shape == image.shape
    assert not torch.equal(output, image)


def test_a_checkpoint_of_the_published_trainer_converts(tmp_path: Path, capsys: Any) -> None:
    model = convert(PARITY / "text_time_embed.s1.ckpt", tmp_path / "model")
    state = load_file(PARITY / "text_time_embed.weights.safetensors")
    assert torch.equal(model.words.weight, state["vocab_to_embed.weight"].T)
    assert "(update 2): EBTForCausalLM, 12,913 parameters" in capsys.readouterr().out


class Code:
    """What a harmful file could hold."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harmed",)


def damaged(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        held = torch.load(path, weights_only=True)
        change(held)
        torch.save(held, path)

    return damage


def without(part: str, name: str) -> Callable[[Path], None]:
    return damaged(lambda held: held[part].pop(name))


def with_(part: str, name: str, value: Any) -> Callable[[Path], None]:
    return damaged(lambda held: held[part].update({name: value}))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: path.unlink(), "not a file"),
    "text": (lambda path: path.write_text("hello"), "not a PyTorch checkpoint"),
    "words": (lambda path: path.write_text("eta eta alpha epsilon iota\n"), "not a PyTorch checkpoint"),
    "empty": (lambda path: path.write_bytes(b""), "not a PyTorch checkpoint"),
    "cut short": (cut_short, "truncated"),
    "with code": (lambda path: torch.save({"state_dict": {}, "hyper_parameters": {}, "code": Code()}, path), "refused"),
    "another framework": (lambda path: torch.save({"model": {}, "args": {}}, path), "has no state_dict.*another framework"),
    "a tensor": (lambda path: torch.save(torch.ones(3), path), "contains a Tensor"),
    "a weight missing": (without("state_dict", "model.transformer.norm.weight"), "transformer.norm.weight is missing"),
    "a foreign weight": (with_("state_dict", "model.extra", torch.ones(1)), "weight extra is unknown"),
    "a foreign prefix": (with_("state_dict", "net.extra", torch.ones(1)), "entry net.extra"),
    "another shape": (
        with_("state_dict", "model.vocab_to_embed.weight", torch.ones(3, 3)),
        r"vocab_to_embed.weight has the shape",
    ),
    "diverged": (with_("state_dict", "model.alpha", torch.tensor(float("nan"))), "model.alpha is not finite"),
    "a setting missing": (without("hyper_parameters", "mcmc_num_steps"), "hyper-parameter mcmc_num_steps is missing"),
    "a foreign setting": (with_("hyper_parameters", "warp", 9), "hyper-parameter warp = 9"),
    "without an equal": (with_("hyper_parameters", "absolute_clamp", 4.0), "absolute_clamp = 4.0 is not supported"),
    "another modality": (with_("hyper_parameters", "modality", "AUD"), "modality = 'AUD'"),
    "another type": (with_("hyper_parameters", "ebt_type", "big"), "ebt_type = 'big'"),
    "other layers": (with_("hyper_parameters", "num_transformer_blocks", 5), "num_transformer_blocks is 5"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_converted_is_named_and_nothing_is_written(
    damage: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = checkpoint(tmp_path / "last.ckpt", hparams(), weights(hparams()))
    change, message = DAMAGES[damage]
    change(path)
    assert main(["convert", str(path), str(tmp_path / "model")]) == 2
    told = capsys.readouterr().err
    assert re.search(message, told), told
    assert "Traceback" not in told
    assert {file.name for file in tmp_path.iterdir()} <= {"last.ckpt"}


def test_a_folder_that_exists_and_a_tokenizer_of_another_vocabulary_are_refused(
    tokenizer: str, tmp_path: Path, capsys: Any
) -> None:
    path = checkpoint(tmp_path / "last.ckpt", hparams(), weights(hparams()))
    assert main(["convert", str(path), str(tmp_path)]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["convert", str(path), str(tmp_path / "model"), "--tokenizer", "bytes"]) == 2
    assert "257 tokens, the model 13" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
    convert(path, tmp_path / "model")
    assert "someone/somewhere" in capsys.readouterr().out
    assert main(["generate", "--checkpoint", str(tmp_path / "model"), "--prompt", "abc"]) == 2
    assert "has no tokenizer" in capsys.readouterr().err
