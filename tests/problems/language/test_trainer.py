"""Training through ``forward(labels=...)``, alone and with ``transformers.Trainer``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hub_toys import CONDITIONINGS, TINY, WORDS, make_ebt, make_ids, make_twin, pad_left
from torch.nn.utils import parameters_to_vector
from transformers import Trainer, TrainingArguments, set_seed

from ebt.problems.folder import load_folder
from ebt.problems.language.base import LanguageModel
from ebt.problems.language.configuration import EBTConfig, TransformerPPConfig
from ebt.problems.language.ebt import EBTForCausalLM
from ebt.problems.language.transformer_pp import TransformerPPForCausalLM
from ebt.thinking import Recipe, supervise

RECIPES: dict[str, Any] = {
    "default": None,
    "S1": {"gradients": "detached", "min_steps": 2, "max_steps": 2},
    "S2": {"gradients": "truncated", "loss": "last", "step_size_spread": 2.0, "noise": 0.1},
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_loss_follows_the_recipe_of_the_configuration(recipe: dict[str, Any] | None) -> None:
    model, ids = make_ebt(recipe=recipe, start_std=0.5).train(), make_ids()
    labels = ids.clone()
    labels[1, 4:] = -100
    output = model(ids, labels=labels, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    geometry = model.geometry()
    start = geometry.start((2, 6), 0.5, generator)
    settings = Recipe(start_std=0.5, **(recipe or {}))
    expected = supervise(
        model.landscape(ids[:, :-1]), geometry, model.update(), start, labels[:, 1:], model.step_size, settings, generator
    )
    torch.testing.assert_close(output.loss, expected.loss)
    torch.testing.assert_close(output.energies, expected.thought.energies)
    assert output.logits.shape == (2, 6, WORDS)
    output.loss.backward()
    lacking = {name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()}
    assert not lacking


@pytest.mark.parametrize("config", CONDITIONINGS.values(), ids=CONDITIONINGS)
def test_the_gradient_is_the_slope_of_the_loss(config: dict[str, Any]) -> None:
    model, ids = make_ebt(recipe={"min_steps": 3}, space="restart", **config).train(), make_ids()

    def loss() -> torch.Tensor:
        return model(ids, labels=ids, generator=torch.Generator().manual_seed(1)).loss

    loss().backward()
    along = [torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(2)) for p in model.parameters()]
    expected = sum((p.grad * a).sum() for p, a in zip(model.parameters(), along, strict=True) if p.grad is not None)
    values = []
    for sign in (1, -2):
        with torch.no_grad():
            for p, a in zip(model.parameters(), along, strict=True):
                p += sign * 1e-6 * a
        values.append(loss().item())
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(expected.item(), rel=1e-5)


def test_padding_does_not_change_the_training_loss() -> None:
    model = make_ebt(recipe={"min_steps": 2, "max_steps": 2}, start_std=0.0).train()
    short = make_ids(1, 4)[0]
    ids, mask = pad_left([make_ids(1, 7, seed=1)[0], short])
    labels = ids.masked_fill(mask == 0, -100)
    labels[0] = -100
    labels[1, 3] = -100  # the first token is predicted by nothing when it stands alone
    padded = model(ids, attention_mask=mask, labels=labels).loss
    torch.testing.assert_close(padded, model(short.unsqueeze(0), labels=short.unsqueeze(0)).loss)


@pytest.mark.parametrize("make", [make_ebt, make_twin])
def test_accumulated_batches_weigh_each_token_alike(make: Any) -> None:
    model, ids = make().eval(), make_ids(2, 7)
    labels = ids.clone()
    labels[0, 2:] = -100
    parts = [model(ids[i : i + 1], labels=labels[i : i + 1], num_items_in_batch=torch.tensor(7)).loss for i in range(2)]
    torch.testing.assert_close(sum(parts), model(ids, labels=labels).loss)


def train(model: LanguageModel, folder: Path, **settings: Any) -> Trainer:
    text = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6] * 3)
    data: Any = [{"input_ids": text, "labels": text}] * 8
    arguments = TrainingArguments(
        str(folder), learning_rate=1e-2, report_to=[], use_cpu=True, disable_tqdm=True, logging_steps=100, seed=1, **settings
    )
    trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data[:2])
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("model_class", "config"), [(EBTForCausalLM, EBTConfig), (TransformerPPForCausalLM, TransformerPPConfig)]
)
def test_the_trainer_learns_and_its_checkpoints_load(model_class: Any, config: Any, tmp_path: Path) -> None:
    set_seed(0)
    model = model_class(config(WORDS, context_length=24, **TINY))
    trainer = train(model, tmp_path, max_steps=25, per_device_train_batch_size=4, gradient_accumulation_steps=2, save_steps=25)
    assert trainer.evaluate()["eval_loss"] < 2.5  # ln 23 = 3.1 at first
    loaded = load_folder(tmp_path / "checkpoint-25", expect=model_class)
    assert torch.equal(parameters_to_vector(loaded.parameters()), parameters_to_vector(model.parameters()))
    predicted = trainer.predict(trainer.eval_dataset).predictions
    assert predicted.shape == (2, 24, WORDS)
