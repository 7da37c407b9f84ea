"""Sudoku: metrics on empty cells, every kind of model on the same batches."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from small_models import QUIET
from torch import Tensor

from ebt.errors import InputError
from ebt.problems.images.task import DenoisingTask
from ebt.problems.sudoku.data import SudokuDataModule
from ebt.problems.sudoku.task import SudokuNetwork, SudokuTask
from ebt.thinking import Recipe

KINDS = ("ebt", "feed_forward", "looped_prediction", "looped_hidden", "recursive")
pytestmark = pytest.mark.filterwarnings("ignore")


def make_task(kind: Any, **settings: Any) -> SudokuTask:
    return SudokuTask(SudokuNetwork(kind=kind, layers=1, dim=8, heads=2), **settings)


def make_data(**settings: Any) -> SudokuDataModule:
    return SudokuDataModule(
        size=4,
        train_count=20,
        train_givens=(6, 9),
        validation_count=6,
        test_count=3,
        test_givens=(7, 5),
        batch_size=4,
        **settings,
    )


class Watch(L.Callback):
    """Keeps the batches of a training."""

    def __init__(self) -> None:
        self.batches: list[Tensor] = []

    def on_train_batch_end(self, trainer: L.Trainer, task: Any, outputs: Any, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.batches.append(torch.stack((batch["puzzle"], batch["solution"])).clone())


def test_all_kinds_see_the_same_batches() -> None:
    seen = []
    for kind in KINDS:
        watch = Watch()
        recipe = Recipe(max_steps=5) if kind.startswith(("looped", "recursive")) else Recipe()
        trainer = L.Trainer(max_steps=7, limit_val_batches=0, callbacks=[watch], **QUIET)
        trainer.fit(make_task(kind, recipe=recipe), datamodule=make_data())
        assert torch.isfinite(trainer.callback_metrics["train/loss"])
        assert ("train/energy_first" in trainer.callback_metrics) == (kind == "ebt")
        seen.append(torch.stack(watch.batches))
    assert all(torch.equal(seen[0], other) for other in seen[1:])
    assert not torch.equal(seen[0][0], seen[0][5])  # the second epoch has another order and other digits


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_come_by_set_and_number_of_steps(kind: str) -> None:
    task = make_task(kind)
    metrics: dict[str, float] = {}
    for of_set in L.Trainer(**QUIET).test(task, make_data(), verbose=False):
        metrics |= of_set
    for name in ("givens_7", "givens_5"):
        assert {f"test/{name}/loss", f"test/{name}/exact", f"test/{name}/cells"} <= metrics.keys()
        assert (f"test/{name}/cells_at_16" in metrics) == (kind != "feed_forward")
        assert (f"test/{name}/energy_last" in metrics) == (kind == "ebt")
        assert 0 <= metrics[f"test/{name}/cells"] <= 1


class Steps(L.Callback):
    """Notes the number of losses of each update, and how much is remembered after it."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.remembered: list[int] = []

    def on_train_batch_end(self, trainer: L.Trainer, task: Any, *_: Any) -> None:
        self.steps.append(float(trainer.callback_metrics["train/steps"]))
        self.remembered.append(len(task.replay))


def test_a_warm_start_is_one_step_of_the_twin() -> None:
    """After it the steps are the recipe's, and candidates are remembered."""
    recipe = Recipe(warm_start=0.5, min_steps=3, max_steps=3, replay_size=12, replay_fraction=0.5)
    task, steps = make_warm(recipe), Steps()
    L.Trainer(max_steps=8, callbacks=[steps], **QUIET).fit(task, datamodule=make_data())
    assert steps.steps == [1.0] * 4 + [3.0] * 4
    assert steps.remembered == [0] * 4 + [4, 8, 12, 12]


def make_warm(recipe: Recipe, head: Any = "bilinear", space: str | None = None) -> SudokuTask:
    return SudokuTask(SudokuNetwork(layers=1, dim=8, heads=2, head=head, space=space), recipe)


@pytest.mark.parametrize("space", ["restart", "mirror", "compact-mirror"])
def test_a_warm_start_learns_nothing_from_where_candidates_start(space: str) -> None:
    task, data = make_warm(Recipe(1, 1, warm_start=0.5), space=space), make_data()
    L.Trainer(max_steps=1, **QUIET).fit(task, datamodule=data)
    batch, share = next(iter(data.train_dataloader())), [0.0]
    task.budget = lambda: share[0]
    first, second = (task.learn(batch).loss.item() for _ in range(2))
    assert first == second
    share[0] = 0.9
    third, fourth = (task.learn(batch).loss.item() for _ in range(2))
    assert third != fourth


def test_a_warm_start_needs_a_head_that_judges_the_unseen() -> None:
    with pytest.raises(InputError, match=r"set network\.head to bilinear, or recipe\.warm_start to 0"):
        L.Trainer(max_steps=1, **QUIET).fit(make_warm(Recipe(warm_start=0.5), None), datamodule=make_data())


def test_tasks_without_a_warm_start_refuse_it() -> None:
    with pytest.raises(InputError, match=r"warm_start is 0\.5: DenoisingTask has no warm start; set it to 0"):
        DenoisingTask(recipe=Recipe(warm_start=0.5))


def test_a_share_is_below_one() -> None:
    with pytest.raises(ValueError, match="warm_start is 1"):
        Recipe(warm_start=1.0)


def test_accuracy_counts_empty_cells_alone() -> None:
    task = make_task("feed_forward")
    data = make_data()
    data.prepare()
    task.trainer = L.Trainer(**QUIET)
    task.trainer.datamodule = data  # type: ignore[attr-defined]
    task.configure_model()
    batch = next(iter(data.val_dataloader()))
    empty = batch["puzzle"] == 0
    state = torch.nn.functional.one_hot(batch["solution"] - 1, 4).float()
    sums = task.measure(batch, state)
    assert [tuple(int(x) for x in sums[name]) for name in ("exact", "cells")] == [(4, 4), (int(empty.sum()),) * 2]
    state[0, empty[0].nonzero()[0]] = -state[0, empty[0].nonzero()[0]]  # one wrong digit in an empty cell
    state[1, (~empty[1]).nonzero()[0]] = -state[1, (~empty[1]).nonzero()[0]]  # and one under a given, which does not count
    sums = task.measure(batch, state)
    assert int(sums["exact"][0]) == 3
    assert int(sums["cells"][0]) == int(empty.sum()) - 1
    assert int(sums["loss"][1]) == int(empty.sum())


def test_predictions_are_boards_with_their_givens() -> None:
    data = make_data()
    data.predict_dataloader = data.val_dataloader  # type: ignore[method-assign]
    predicted: Any = L.Trainer(**QUIET).predict(make_task("ebt"), datamodule=data)
    boards = torch.cat(predicted)
    puzzles = torch.cat([batch["puzzle"] for batch in data.val_dataloader()])
    assert torch.equal(boards[puzzles > 0], puzzles[puzzles > 0])
    assert boards.min() >= 1
    assert boards.max() <= 4


def test_initial_weights_depend_on_the_seed_alone() -> None:
    def weights(seed: int, noise: int) -> Tensor:
        torch.manual_seed(noise)
        task = make_task("ebt", seed=seed)
        L.Trainer(max_steps=0, limit_val_batches=0, **QUIET).fit(task, datamodule=make_data())
        return torch.cat([parameter.detach().flatten() for parameter in task.parameters()])

    assert torch.equal(weights(1, 0), weights(1, 5))
    assert not torch.equal(weights(1, 0), weights(2, 0))


def test_inner_updates_are_those_of_a_recursive_model() -> None:
    assert make_task("recursive").network.inner is None
    assert SudokuNetwork(kind="recursive", inner=2).build(4, Recipe(), 1).passes == 3
    with pytest.raises(InputError, match=r"network\.inner is for kind recursive, but kind is looped_hidden"):
        SudokuNetwork(kind="looped_hidden", inner=2)
