"""16-bit training follows float32; states, energies, losses and step sizes keep float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from ebt.models.thinking import SPACES
from ebt.problems.language.configuration import EBTConfig
from ebt.problems.language.data import TextDataModule
from ebt.problems.language.ebt import EBTForCausalLM
from ebt.problems.language.task import LanguageNetwork, LanguageTask
from ebt.thinking import Recipe
from ebt.training.optimisation import Optimisation
from ebt.training.task import Outcome

RECIPES = {"own": Recipe(), "s1": Recipe.s1(), "s2": Recipe.s2(replay_size=16)}
BOUND = {"bf16-mixed": 0.02, "bf16-true": 0.15}
"""Nats: how far the mean loss of six updates may lie from that in float32."""
pytestmark = pytest.mark.filterwarnings("ignore")


class Watch(L.Callback):
    """The losses of all updates."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, task: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert outputs["loss"].dtype == torch.float32
        self.losses.append(outputs["loss"].item())


class Checked(LanguageTask):
    """Looks at the dtypes of every descent."""

    def learn(self, *args: Any, **kwargs: Any) -> Outcome:
        outcome = super().learn(*args, **kwargs)
        assert outcome.thought is not None
        kept = (outcome.loss, outcome.losses, outcome.thought.energies, outcome.thought.step_size, *outcome.thought.states)
        assert {tensor.dtype for tensor in kept} == {torch.float32}
        return outcome


def losses(recipe: Recipe, precision: Any, folder: Path) -> list[float]:
    text = folder / "text.txt"
    text.write_text("\n\n".join(f"{i} quick brown foxes jump over {i * i} lazy dogs." for i in range(200)))
    task = Checked(
        LanguageNetwork(layers=1, dim=32, heads=2), recipe, optimisation=Optimisation(lr=4e-3, warmup_steps=2), sample_every=0
    )
    watch, quiet = Watch(), {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = L.Trainer(
        max_steps=18, accelerator="cpu", precision=precision, logger=False, limit_val_batches=1, callbacks=[watch], **quiet
    )
    trainer.fit(task, datamodule=TextDataModule(str(text), context_length=16, batch_size=8))
    assert task.alpha.log_scale.dtype == torch.float32
    return watch.losses


@pytest.mark.parametrize("name", RECIPES)
def test_sixteen_bits_follow_float32(name: str, tmp_path: Path) -> None:
    single = torch.tensor(losses(RECIPES[name], "32-true", tmp_path)).view(3, 6).mean(1)
    assert single[0] - single[-1] > 0.5  # it learns
    for precision, bound in BOUND.items():
        found = torch.tensor(losses(RECIPES[name], precision, tmp_path)).view(3, 6).mean(1)
        assert (found - single).abs().max() < bound, precision


@pytest.mark.parametrize("space", SPACES)
def test_a_model_in_sixteen_bits_thinks_with_precise_states_and_energies(space: str) -> None:
    model = EBTForCausalLM(EBTConfig(11, 6, layers=1, dim=8, heads=2, space=space)).to(torch.bfloat16)
    thought = model.think(torch.zeros(2, 6, dtype=torch.long), steps=2, candidates=2)
    assert thought.states[-1].dtype == thought.energies.dtype == model.step_size().dtype == torch.float32
