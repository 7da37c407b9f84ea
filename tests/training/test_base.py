"""What every task does: means that are right, alarms, refusals, exact optimiser groups, evaluation in inference mode."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import QUIET
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ebt.errors import InputError
from ebt.evaluation.alarms import ThinkingWarning
from ebt.problems.language.configuration import EBTConfig, TransformerPPConfig
from ebt.problems.language.ebt import EBTForCausalLM
from ebt.problems.language.task import LanguageNetwork, LanguageTask
from ebt.problems.language.transformer_pp import TransformerPPForCausalLM
from ebt.problems.sudoku.configuration import SudokuTransformerConfig
from ebt.problems.sudoku.data import SudokuDataModule
from ebt.problems.sudoku.models import SudokuTransformer
from ebt.problems.sudoku.task import SudokuNetwork, SudokuTask
from ebt.thinking import IGNORED, Euclidean, Geometry, NonFiniteError, Recipe, StepSize
from ebt.training.optimisation import Optimisation
from ebt.training.replay import ReplayBuffer
from ebt.training.task import ThinkingTask

TINY: dict[str, Any] = {"layers": 1, "dim": 8, "heads": 2}
pytestmark = pytest.mark.filterwarnings("ignore:.*(num_workers|many workers|LeafSpec|max_epochs|interval).*")


class Bowl(ThinkingTask):
    """Candidates y in R^2 with the energy weight |y - x|^2 / 2; the targets are the x themselves."""

    def __init__(self, weight: float = 0.5, **settings: Any) -> None:
        super().__init__(optimisation=Optimisation(warmup_steps=1), **settings)
        self.weight, self.alpha = nn.Parameter(torch.tensor([[weight]])), StepSize(1.0)

    def landscape(self, batch: dict[str, Tensor]) -> Callable[[Tensor, int], Tensor]:
        return lambda y, step: (self.weight * (y - batch["x"]).square()).sum(-1) / 2

    def geometry(self) -> Geometry:
        return Euclidean(1, (2,))

    def target(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["x"]

    def parts(self, batch: dict[str, Tensor]) -> tuple[int, ...]:
        return (len(batch["x"]),)


class Points(L.LightningDataModule):
    """12 points, in training batches of 4 and validation batches of 5, 5 and 2."""

    def __init__(self, bad: bool = False) -> None:
        super().__init__()
        x = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
        self.points = [{"x": row * float("inf") if bad else row} for row in x]

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.points, batch_size=4)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.points, batch_size=5)  # type: ignore[arg-type]


def fit(task: ThinkingTask, data: L.LightningDataModule, steps: int = 4, **settings: Any) -> L.Trainer:
    trainer = L.Trainer(max_steps=steps, **{**QUIET, **settings})
    trainer.fit(task, datamodule=data)
    return trainer


@pytest.mark.parametrize("inference_mode", [True, False])
def test_evaluation_works_in_inference_mode_too(inference_mode: bool) -> None:
    task = Bowl()
    trainer = L.Trainer(**QUIET, inference_mode=inference_mode)
    for _ in range(2):
        (metrics,) = trainer.validate(task, Points(), verbose=False)
        assert metrics["val/loss_at_8"] < metrics["val/loss_at_2"] < metrics["val/loss_at_1"]
        assert metrics["val/loss"] == metrics["val/loss_at_3"]
        assert metrics["val/gain"] == pytest.approx(metrics["val/loss_at_1"] - metrics["val/loss"])
        assert metrics["val/energy_last"] < metrics["val/energy_first"]
        assert not any(parameter.is_inference() for parameter in task.parameters())


def test_validation_does_not_depend_on_the_training_generator() -> None:
    task = Bowl()
    trainer = L.Trainer(**QUIET)
    first = trainer.validate(task, Points(), verbose=False)
    torch.rand(3, generator=task.generator("cpu"))
    torch.rand(3)
    assert trainer.validate(task, Points(), verbose=False) == first


@pytest.mark.filterwarnings("ignore::ebt.evaluation.alarms.ThinkingWarning")
def test_means_weigh_parts_and_not_batches() -> None:
    """Perplexity is the exponential of nats per scored token: rows with few tokens count little."""
    model = EBTForCausalLM(EBTConfig(11, 6, **TINY))
    nn.init.normal_(model.network.head.projection.weight)
    task = LanguageTask.around(model, sample_every=0)
    ids = torch.randint(0, 11, (5, 6), generator=torch.Generator().manual_seed(0))
    targets = ids.roll(-1, 1)
    targets[3, 1:] = IGNORED
    targets[4] = IGNORED
    rows = [{"input_ids": ids[i], "targets": targets[i]} for i in range(5)]
    found = [
        L.Trainer(**QUIET).validate(task, DataLoader(rows, batch_size=size), verbose=False)[0]  # type: ignore[arg-type]
        for size in (1, 2, 5)
    ]
    for metrics in found:
        assert metrics["val/perplexity"] == pytest.approx(math.exp(metrics["val/loss"]), rel=1e-5)
        assert metrics["val/perplexity_at_8"] == pytest.approx(math.exp(metrics["val/loss_at_8"]), rel=1e-5)
    assert found[0]["val/energy_first"] == pytest.approx(found[2]["val/energy_first"], rel=1e-4)
    with torch.no_grad():
        thought = model.think(ids, steps=3)
        nats = thought.geometry.loss(thought.state, targets)
    assert found[2]["val/loss"] == pytest.approx(nats.sum().item() / int((targets != IGNORED).sum()), rel=1e-5)


def test_the_twin_has_one_loss_and_its_perplexity() -> None:
    task = LanguageTask.around(TransformerPPForCausalLM(TransformerPPConfig(11, 6, **TINY)), sample_every=0)
    ids = torch.randint(0, 11, (4, 6), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": row, "targets": row.roll(-1)} for row in ids]
    (metrics,) = L.Trainer(**QUIET).validate(task, DataLoader(rows, batch_size=2), verbose=False)  # type: ignore[arg-type]
    logits = task.model(ids).logits
    nats = nn.functional.cross_entropy(logits.flatten(0, 1), ids.roll(-1, 1).flatten()).item()
    assert metrics == {"val/loss": pytest.approx(nats, rel=1e-5), "val/perplexity": pytest.approx(math.exp(nats), rel=1e-5)}


def test_a_recipe_around_a_twin_counts_or_is_refused() -> None:
    twin = TransformerPPForCausalLM(TransformerPPConfig(11, 6, **TINY))
    with pytest.raises(InputError, match=r"recipe\.noise.*TransformerPPForCausalLM"):
        LanguageTask.around(twin, recipe=Recipe(noise=0.1))
    with pytest.raises(InputError, match=r"recipe\.max_steps"):
        LanguageTask.around(twin, recipe=Recipe(max_steps=5))
    loop = SudokuTransformer(SudokuTransformerConfig(4, "hidden", **TINY))
    assert SudokuTask.around(loop, recipe=Recipe(max_steps=5)).recipe.max_steps == 5
    with pytest.raises(InputError, match=r"recipe\.clamp"):
        SudokuTask.around(loop, recipe=Recipe(clamp=1.0))


def test_thinking_that_does_nothing_is_told_once() -> None:
    task = Bowl(weight=0.0, alarm_every=1)
    task.weight.requires_grad_(False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = fit(task, Points(), steps=6, limit_val_batches=0)
    told = [str(w.message) for w in caught if issubclass(w.category, ThinkingWarning)]
    assert len(told) == 1
    assert "thinking changes nothing" in told[0]
    assert trainer.callback_metrics["train/alarms"] == 1


def test_rising_energies_are_told() -> None:
    with pytest.warns(ThinkingWarning, match="energies rise"):
        L.Trainer(**QUIET).validate(Bowl(weight=2.5), Points(), verbose=False)


def test_numbers_that_are_not_finite_stop_the_training() -> None:
    with pytest.raises(NonFiniteError, match="step 1"):
        fit(Bowl(), Points(bad=True))


def test_a_broken_gradient_is_named() -> None:
    class Broken(Bowl):
        def on_after_backward(self) -> None:
            assert self.weight.grad is not None
            self.weight.grad.fill_(float("nan"))

    with pytest.raises(NonFiniteError, match="gradient of weight at update 1"):
        fit(Broken(), Points())


def test_two_clippings_contradict_each_other() -> None:
    with pytest.raises(InputError, match=r"optimisation\.clip"):
        fit(Bowl(), Points(), gradient_clip_val=1.0)


def test_the_gradient_norm_is_clipped() -> None:
    norms = []

    class Watch(L.Callback):
        def on_before_zero_grad(self, trainer: L.Trainer, task: Any, optimizer: Any) -> None:
            if task.weight.grad is not None:
                norms.append(torch.stack([p.grad.norm() for p in task.parameters()]).norm().item())

    task = Bowl(weight=30.0)
    task.optimisation = Optimisation(clip=1e-3)
    fit(task, Points(), steps=3, limit_val_batches=0, callbacks=[Watch()])
    assert norms
    assert max(norms) <= 1.0001e-3


def test_replayed_rows_follow_the_fresh_ones_from_where_they_ended() -> None:
    task = Bowl(recipe=Recipe(replay_size=3, replay_fraction=0.5, loss="last", gradients="truncated"))
    seen: list[tuple[int, int]] = []
    learn = task.learn

    def watch(batch: dict[str, Tensor], replayed: Tensor | None = None) -> Any:
        outcome = learn(batch, replayed)
        seen.append((len(batch["x"]), 0 if replayed is None else len(replayed)))
        assert outcome.thought is not None
        if replayed is not None:
            assert torch.equal(outcome.thought.start[-len(replayed) :], replayed)
        return outcome

    task.learn = watch  # type: ignore[method-assign]
    fit(task, Points(), steps=3, limit_val_batches=0)
    assert seen == [(4, 0), (6, 2), (6, 2)]
    assert isinstance(task.replay, ReplayBuffer)
    assert len(task.replay) == 3


def test_matrices_alone_decay_and_the_step_size_has_its_own_rate() -> None:
    model = EBTForCausalLM(EBTConfig(11, 6, **TINY))
    optimiser = Optimisation(lr=1e-2, step_size_lr=3.0, weight_decay=0.2).optimiser(model)
    groups = {group["name"]: group for group in optimiser.param_groups}
    assert [parameter is model.step_size.log_scale for parameter in groups["step_size"]["params"]] == [True]
    assert groups["step_size"]["lr"] == pytest.approx(3e-2)
    assert (groups["decay"]["weight_decay"], groups["plain"]["weight_decay"], groups["step_size"]["weight_decay"]) == (
        0.2,
        0,
        0,
    )
    decaying = set(groups["decay"]["params"])
    assert model.words.weight not in decaying
    assert all(parameter.dim() > 1 for parameter in decaying)
    assert sum(len(group["params"]) for group in groups.values()) == len(list(model.parameters()))


@given(st.integers(1, 30), st.integers(40, 200), st.floats(0, 1))
def test_the_schedule_rises_and_falls(warmup: int, updates: int, least: float) -> None:
    ratios = [Optimisation(warmup_steps=warmup, min_lr_ratio=least).ratio(step, updates) for step in range(updates)]
    assert ratios[warmup - 1] == pytest.approx(1)
    assert ratios[-1] == pytest.approx(least)
    assert ratios[:warmup] == sorted(ratios[:warmup])
    assert ratios[warmup:] == sorted(ratios[warmup:], reverse=True)


def test_the_schedule_begins_anew_after_a_warm_start() -> None:
    optimisation = Optimisation(warmup_steps=5, min_lr_ratio=0.1)
    ratios = [optimisation.ratio(step, 60, 20) for step in range(60)]
    assert [i for i, ratio in enumerate(ratios) if ratio == pytest.approx(1)] == [*range(4, 20), 24, 25]
    assert (ratios[20], ratios[59]) == pytest.approx((0.2, 0.1))


def test_decay_needs_an_end() -> None:
    with pytest.raises(InputError, match="max_steps"):
        fit(Bowl(), Points(), steps=-1)


@pytest.mark.parametrize("settings", [{"validation_steps": [0]}, {"steps": 0}, {"seed": -1}, {"alarm_every": 0}])
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Bowl(**settings)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: LanguageTask(LanguageNetwork(kind="transformer_pp", space="mirror")), "network.space"),
        (lambda: LanguageTask(LanguageNetwork(kind="transformer_pp"), Recipe(max_steps=5)), "recipe.max_steps"),
        (lambda: SudokuTask(SudokuNetwork(kind="looped_hidden"), Recipe(noise=0.1)), "recipe.noise"),
    ],
)
def test_models_without_an_energy_refuse_thinking(make: Callable[[], Any], name: str) -> None:
    with pytest.raises(InputError, match=name):
        make()
    SudokuTask(SudokuNetwork(kind="looped_hidden"), Recipe(max_steps=7))


def test_a_task_refuses_data_of_another() -> None:
    with pytest.raises(InputError, match="vocab_size"):
        fit(LanguageTask(LanguageNetwork(**TINY)), SudokuDataModule(size=4, train_count=4, train_givens=(6, 8), test_givens=()))
