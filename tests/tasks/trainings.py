"""Short trainings whose draws do not depend on the number of processes. As a program: one of two processes, as torchrun starts
them, that does them all and leaves what it saw in a folder."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch

from ebt.data.sudoku_module import SudokuDataModule
from ebt.data.text import TextDataModule
from ebt.tasks import LanguageNetwork, LanguageTask, SudokuNetwork, SudokuTask, ThinkingTask
from ebt.thinking import Recipe

FIXED: dict[str, Any] = {"start_std": 0.0, "min_steps": 2, "max_steps": 2}
RECIPES = {
    "own": Recipe(**FIXED),
    "s1": Recipe.s1(start_std=0.0),
    "s2": Recipe.s2(**FIXED, noise=0.0, step_size_spread=1.0, replay_size=0, replay_fraction=0.0),
}
CASES = (*RECIPES, "feed_forward", "text")
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
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)

    def on_before_optimizer_step(self, trainer: L.Trainer, task: Any, optimizer: Any) -> None:
        self.gradients.append({name: parameter.grad.clone() for name, parameter in task.named_parameters()})

    def on_train_batch_end(self, trainer: L.Trainer, task: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(trainer.strategy.reduce(outputs["loss"].detach().clone(), reduce_op="mean")))
        if trainer.global_step == self.save_at and self.file is not None:
            trainer.save_checkpoint(self.file)


def boards(batch_size: int) -> SudokuDataModule:
    """Training puzzles with 5 to 11 of 16 cells given: no two batches have as many cells to score."""
    return SudokuDataModule(
        size=4, train_count=32, train_givens=(5, 11), validation_count=4, test_givens=(6,), test_count=1, batch_size=batch_size
    )


def parts(case: str, batch_size: int, folder: Path) -> tuple[ThinkingTask, L.LightningDataModule]:
    """The task and the data of a case."""
    if case == "text":
        task = LanguageTask(LanguageNetwork(**SIZES), RECIPES["s1"], sample_every=0)
        return task, TextDataModule(str(folder / "text.txt"), context_length=8, batch_size=batch_size, fractions=(1, 0, 0))
    if case == "feed_forward":
        return SudokuTask(SudokuNetwork(kind="feed_forward", **SIZES)), boards(batch_size)
    return SudokuTask(SudokuNetwork(**SIZES), RECIPES.get(case, DRAWN)), boards(batch_size)


def train(
    case: str,
    folder: Path,
    processes: int = 1,
    batch_size: int = 8,
    updates: int = 3,
    resume: Path | None = None,
    **settings: Any,
) -> tuple[ThinkingTask, Watch]:
    """Train for a few updates; ``batch_size`` is that of all processes together."""
    task, data = parts(case, batch_size // processes, folder)
    watch = Watch(settings.pop("save_at", None), settings.pop("file", None))
    trainer = L.Trainer(
        max_steps=updates,
        max_epochs=-1,
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[watch] if resume is None else [],
        **settings,
    )
    trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)
    return task, watch


def write_text(folder: Path) -> None:
    """What the case ``text`` reads."""
    (folder / "text.txt").write_text("\n\n".join(f"{i} foxes jump over {i * i} dogs." for i in range(60)))


def main(folder: Path) -> None:
    """Everything that two processes do."""
    warnings.simplefilter("ignore")
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


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
