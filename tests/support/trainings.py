"""Short trainings whose draws do not depend on the number of processes, and two processes, as torchrun starts them, that do
them all, by ``ddp`` or with sharded weights, and leave what they saw in a folder.
"""

from __future__ import annotations

import socket
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from forked import finish, start
from lightning.pytorch.plugins import DoublePrecision
from torch.distributed.tensor import DTensor, distribute_tensor

from ebt.cli.checkpoints import AtomicCheckpointIO
from ebt.nn.blocks import Block
from ebt.problems.images.data import ImageDataModule
from ebt.problems.images.task import DenoisingNetwork, DenoisingTask
from ebt.problems.language.data import TextDataModule
from ebt.problems.language.task import LanguageNetwork, LanguageTask
from ebt.problems.sudoku.data import SudokuDataModule
from ebt.problems.sudoku.task import SudokuNetwork, SudokuTask
from ebt.thinking import Recipe
from ebt.training.averaging import WeightAverage
from ebt.training.sharding import Sharded, full
from ebt.training.task import ThinkingTask

FIXED: dict[str, Any] = {"start_std": 0.0, "min_steps": 2, "max_steps": 2}
RECIPES = {
    "own": Recipe(**FIXED),
    "s1": Recipe.s1(start_std=0.0),
    "s2": Recipe.s2(**FIXED, noise=0.0, step_size_spread=1.0, replay_size=0, replay_fraction=0.0),
}
CASES = (*RECIPES, "feed_forward", "text")
RECIPES["warm"] = Recipe.warm(start_std=0.0, min_steps=2, max_steps=2)
LANGUAGE: dict[str, tuple[str, dict[str, Any]]] = {
    "text": ("s1", {}),
    "text_own": ("own", {"layers": 3}),
    "text_s2": ("s2", {}),
    "text_warm": ("warm", {"head": "bilinear"}),
    "text_prefix": ("own", {"conditioning": "prefix"}),
    "accumulated": ("s1", {}),
    "checkpointed": ("own", {"layers": 3}),
    "offloaded": ("s1", {}),
    "transformer_pp": ("default", {"kind": "transformer_pp"}),
}
SHARDED_CASES = ("own", "s1", "s2", "feed_forward", "latent", *LANGUAGE)
AVERAGED: Any = (
    ("drawn-sharded", "drawn", "sharded", None),
    ("drawn-ddp", "drawn", "ddp", None),
    ("images-sharded", "images", "sharded", None),
    ("images-ddp", "images", "ddp", None),
    ("sharded-again", "drawn", "sharded", "drawn-sharded"),
    ("sharded-after-ddp", "drawn", "sharded", "drawn-ddp"),
    ("ddp-after-sharded", "drawn", "ddp", "drawn-sharded"),
)
"""Trainings with averaged weights: name, case, strategy, the one whose checkpoint it resumes."""
SIZES: dict[str, Any] = {"layers": 1, "dim": 16, "heads": 2}
DRAWN = Recipe.s2(replay_size=12, replay_fraction=0.5, max_steps=6)
"""Everything drawn at random."""


class Watch(L.Callback):
    """Starts from weights whose energies are not flat; keeps gradients, losses and numbers of steps; saves at an update."""

    def __init__(self, save_at: int | None = None, file: Path | None = None) -> None:
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.losses: list[float] = []
        self.save_at, self.file = save_at, file

    def on_fit_start(self, trainer: L.Trainer, task: Any) -> None:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in task.parameters():
                if parameter.dim() > 1:
                    drawn = torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5
                    if isinstance(parameter, DTensor):
                        drawn = distribute_tensor(drawn, parameter.device_mesh, parameter.placements)
                    parameter.copy_(drawn)

    def on_before_optimizer_step(self, trainer: L.Trainer, task: Any, optimizer: Any) -> None:
        self.gradients.append(gradients(task))

    def on_train_batch_end(self, trainer: L.Trainer, task: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.clipped = gradients(task)
        self.losses.append(float(trainer.strategy.reduce(outputs["loss"].detach().clone(), reduce_op="mean")))
        if trainer.global_step == self.save_at and self.file is not None:
            trainer.save_checkpoint(self.file)


def gradients(task: Any) -> dict[str, torch.Tensor]:
    """Whole, by the names of parameters that have one."""
    return {name: full(parameter.grad).clone() for name, parameter in task.named_parameters() if parameter.grad is not None}


def boards(batch_size: int) -> SudokuDataModule:
    """Training puzzles with 5 to 11 of 16 cells given: no two batches have as many cells to score."""
    return SudokuDataModule(
        size=4, train_count=32, train_givens=(5, 11), validation_count=4, test_givens=(6,), test_count=1, batch_size=batch_size
    )


def parts(case: str, batch_size: int, folder: Path) -> tuple[ThinkingTask, L.LightningDataModule]:
    """The task and the data of a case."""
    if case in LANGUAGE:
        name, network = LANGUAGE[case]
        settings = {"sample_every": 0, "checkpoint_activations": case == "checkpointed"}
        task = LanguageTask(LanguageNetwork(**{**SIZES, **network}), RECIPES.get(name, Recipe()), **settings)
        return task, TextDataModule(str(folder / "text.txt"), context_length=8, batch_size=batch_size, fractions=(1, 0, 0))
    if case == "images":
        images = ImageDataModule(str(folder / "images"), size=8, batch_size=batch_size, fractions=(1, 0, 0))
        return DenoisingTask(DenoisingNetwork(patch_size=4, **SIZES), picture_every=0), images
    if case == "feed_forward":
        return SudokuTask(SudokuNetwork(kind="feed_forward", **SIZES)), boards(batch_size)
    latent = {"latent": True, "head": "bilinear", "head_init": "unit"} if case == "latent" else {}
    return SudokuTask(SudokuNetwork(**SIZES, **latent), RECIPES.get("own" if latent else case, DRAWN)), boards(batch_size)


def train(
    case: str,
    folder: Path,
    processes: int = 1,
    batch_size: int = 8,
    updates: int = 2,
    resume: Path | None = None,
    strategy: Any = "ddp",
    callbacks: Sequence[L.Callback] = (),
    central: bool = False,
    **settings: Any,
) -> tuple[ThinkingTask, Watch]:
    """Train for a few updates; ``batch_size`` is that of all processes together. With ``central``, by central differences in
    float64, where their rounding errors are small."""
    if case == "accumulated":
        settings["accumulate_grad_batches"], batch_size = 2, batch_size // 2
    task, data = parts(case, batch_size // processes, folder)
    watch = Watch(settings.pop("save_at", None), settings.pop("file", None))
    plugins: list[Any] = [AtomicCheckpointIO()]
    if central:
        if case != "latent":  # its energy gives its own slope
            task.recipe = replace(task.recipe, second_order="central")
        plugins.append(DoublePrecision())
    trainer = L.Trainer(
        max_steps=updates,
        max_epochs=-1,
        accelerator="cpu",
        devices=processes,
        strategy=strategy if processes > 1 else "auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=settings.pop("limit_val_batches", 0),
        callbacks=[*callbacks, *([watch] if resume is None else [])],
        plugins=plugins,
        **settings,
    )
    trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)
    return task, watch


def write_text(folder: Path) -> None:
    """What the case ``text`` reads."""
    (folder / "text.txt").write_text("\n\n".join(f"{i} foxes jump over {i * i} dogs." for i in range(60)))


def launch(folder: Path, what: Callable[[Path], None]) -> None:
    """Call a function in two processes that have the environment that torchrun gives.

    Raises:
        AssertionError: one of them failed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    processes = []
    for rank in range(2):
        environment = {**shared, "TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": str(rank)}
        output = folder / f"printed-{rank}.txt"
        processes.append((start(quietly, what, folder, output=output, env=environment), output))
    for process, output in processes:
        finish(process, output)


@cache
def found(folder: Path, rank: int) -> dict[str, Any]:
    """What process ``rank`` left."""
    result: dict[str, Any] = torch.load(folder / f"found-{rank}.pt", weights_only=True)
    return result


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Plain tensors by the same names, equal but for the order of sums."""
    assert one.keys() == other.keys()
    for name in one:
        assert type(one[name]) is type(other[name]) is torch.Tensor
        assert torch.allclose(one[name], other[name], atol=1e-6, rtol=1e-5), name


def assert_same_updates(two: dict[str, Any], watch: Watch) -> None:
    """The losses and gradients of one of two processes are those of a single one."""
    assert two["losses"] == pytest.approx(watch.losses, abs=1e-6, rel=1e-6)
    for one, other in zip(two["gradients"], watch.gradients, strict=True):
        assert_same(one, other)


def quietly(what: Callable[[Path], None], folder: Path) -> None:
    warnings.simplefilter("ignore")
    what(folder)


def ddp(folder: Path) -> None:
    """Everything that two processes do with ``ddp``."""
    found: dict[str, Any] = {}
    for case in CASES:
        _, watch = train(case, folder, processes=2)
        found[case] = {"losses": watch.losses, "gradients": watch.gradients}
    schedules: list[int] = []
    draw = SudokuTask.draw_schedule

    def noted(task: SudokuTask) -> tuple[int, ...]:
        schedule = draw(task)
        schedules.append(len(schedule))
        return schedule

    SudokuTask.draw_schedule = noted  # type: ignore[method-assign]
    saved = folder / "drawn.ckpt"
    whole, _ = train("drawn", folder, processes=2, updates=8, save_at=4, file=saved)
    found["schedules"] = schedules[:8]
    resumed, _ = train("drawn", folder, processes=2, updates=8, resume=saved)
    found["whole"], found["resumed"] = whole.state_dict(), resumed.state_dict()
    rank = whole.global_rank
    for name, task in (("replay", whole), ("replay_resumed", resumed)):
        assert task.replay is not None
        found[name] = [record["state"] for record in task.replay.state_dict()["records"]]
    torch.save(found, folder / f"found-{rank}.pt")


class Average(WeightAverage):
    """What it averages, whole, and its losses in validations."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.losses: list[float] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.losses.append(trainer.callback_metrics["val/loss"].item())

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        super().on_train_end(trainer, pl_module)
        self.weights = full(self._average_model.module.state_dict())


class Shares(L.Callback):
    """The share of weights, gradients and optimiser state that this process holds between updates, and the largest number of
    blocks whose weights were gathered at once in a pass."""

    def __init__(self) -> None:
        self.gathered = 0

    def on_fit_start(self, trainer: L.Trainer, task: Any) -> None:
        blocks = [part for part in task.modules() if isinstance(part, Block)]

        def count(*_: Any) -> None:
            whole = sum(not isinstance(block.attention.query.weight, DTensor) for block in blocks)
            self.gathered = max(self.gathered, whole)

        for block in blocks:
            block.ffn_norm.register_forward_hook(count)

    def on_train_batch_end(self, trainer: L.Trainer, task: Any, *_: Any) -> None:
        states = [value for state in trainer.optimizers[0].state.values() for value in state.values() if value.dim()]
        if not states:  # no update yet
            return
        self.shares = [
            sum(own(tensor).numel() for tensor in tensors) / sum(tensor.numel() for tensor in tensors)
            for tensors in (list(task.parameters()), [parameter.grad for parameter in task.parameters()], states)
        ]


def own(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this process holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def sharded(folder: Path) -> None:
    """Everything that two processes do with sharded weights; where draws depend on the process, with ``ddp``, too."""
    found: dict[str, Any] = {}
    for case in SHARDED_CASES:
        shares = Shares()
        strategy = Sharded(cpu_offload=case == "offloaded")
        task, watch = train(case, folder, processes=2, strategy=strategy, callbacks=[shares], central=True)
        found[case] = {
            "losses": watch.losses,
            "gradients": watch.gradients,
            "clipped": watch.clipped,
            "weights": full(task.state_dict()),
            "shares": shares.shares,
            "gathered": shares.gathered,
        }
    for name, case, strategy, before in AVERAGED:
        average = Average(decay=0.5)
        task, _ = train(
            case,
            folder,
            processes=2,
            updates=4,
            resume=None if before is None else folder / f"{before}.ckpt",
            strategy=Sharded() if strategy == "sharded" else strategy,
            callbacks=[average],
            save_at=2,
            file=folder / f"{name}.ckpt",
            central=True,
        )
        found[name] = {"weights": full(task.state_dict()), "average": average.weights}
    for name in ("sharded", "ddp"):
        average, interval = Average(decay=0.5), {"val_check_interval": 2, "check_val_every_n_epoch": None}
        strategy = Sharded() if name == "sharded" else name
        task, _ = train("drawn", folder, 2, updates=4, strategy=strategy, callbacks=[average], limit_val_batches=1, **interval)
        task.trainer.validate(task, task.trainer.datamodule, verbose=False)
        found[f"validated-{name}"] = average.losses
    task, _ = train("text", folder, processes=2, updates=6, strategy=Sharded(), central=True, resume=folder / "of-one.ckpt")
    found["after one"] = full(task.state_dict())
    train("text", folder, 2, updates=3, strategy=Sharded(), central=True, save_at=3, file=folder / "of-two.ckpt")
    _, watch = train("text_own", folder, processes=2, strategy=Sharded(), precision="bf16-mixed")
    found["bf16-mixed"] = watch.losses
    torch.save(found, folder / f"found-{task.global_rank}.pt")
