"""Training and evaluation jobs of the demo. Each takes plain values, so that it can run in its own process."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch

from ebt.files import finite
from ebt.problems.folder import load_folder, save_folder
from ebt.problems.language.data import TextDataModule
from ebt.problems.language.metrics import language_curve
from ebt.problems.language.task import LanguageNetwork, LanguageTask
from ebt.problems.sudoku.data import SudokuDataModule
from ebt.problems.sudoku.metrics import sudoku_curve
from ebt.problems.sudoku.task import SudokuNetwork, SudokuTask
from ebt.thinking import Recipe, Rule
from ebt.training import loop as training
from ebt.training.averaging import WeightAverage
from ebt.training.loop import Report
from ebt.training.model_task import ModelTask
from ebt.training.optimisation import Optimisation

GIVENS = (17, 12, 10)
SUDOKU_STEPS = (1, 2, 3, 4, 8, 16, 32)
TEXT_STEPS = (1, 2, 3, 4, 8, 12)
CANDIDATES = 8
TOLERANCE = {1: 1e-3, CANDIDATES: 5e-2}
"""Tolerance below which a single candidate has converged and leaves the batch. Several candidates also move by noise."""
RULE: Rule = "decided"
"""The board of lowest energy wins, without its probabilities: better on validation boards than the lowest final energy."""


@dataclass(frozen=True)
class Contender:
    """A model of the demo.

    With ``time_of``, it trains for the processor time of the model of that name; otherwise, for the number of updates of its
    problem.
    """

    problem: Literal["sudoku", "text"]
    kind: Any
    label: str
    time_of: str | None = None


MODELS = {
    "sudoku-ebt": Contender("sudoku", "ebt", "Energy-Based Transformer"),
    "text-ebt": Contender("text", "ebt", "Energy-Based Transformer"),
    "sudoku-looped": Contender("sudoku", "looped_hidden", "looped transformer, equal updates"),
    "sudoku-feed-forward": Contender("sudoku", "feed_forward", "feed-forward twin, equal updates"),
    "text-transformer-pp": Contender("text", "transformer_pp", "Transformer++, equal updates"),
    "sudoku-looped-equal-time": Contender("sudoku", "looped_hidden", "looped transformer, equal time", "sudoku-ebt"),
    "sudoku-feed-forward-equal-time": Contender("sudoku", "feed_forward", "feed-forward twin, equal time", "sudoku-ebt"),
    "text-transformer-pp-equal-time": Contender("text", "transformer_pp", "Transformer++, equal time", "text-ebt"),
}
"""The models by folder name, longest training first, so that the processes finish together."""


@dataclass(frozen=True)
class Settings:
    """Size of the demo. EBTs and baselines use the same batches and optimiser."""

    seed: int = 0
    sudoku_updates: int = 930
    sudoku_puzzles: int = 4000
    sudoku_tests: int = 500
    sudoku_verified: int = 200
    """Number of boards that are also solved with several candidates."""
    text_updates: int = 400
    text_contexts: int = 800
    """Number of contexts to evaluate, of the validation set and of the test set."""

    @classmethod
    def quick(cls, seed: int) -> Settings:
        """Return settings that run in seconds and only check that everything works."""
        return cls(seed, 4, 64, 8, 8, 4, 4)

    def boards(self) -> SudokuDataModule:
        return SudokuDataModule(
            size=6,
            train_count=self.sudoku_puzzles,
            train_givens=(14, 20),
            validation_count=1,
            test_count=self.sudoku_tests,
            test_givens=GIVENS,
            batch_size=32,
            seed=self.seed,
        )

    def text(self) -> TextDataModule:
        at_once = min(32, self.text_contexts)
        return TextDataModule(context_length=64, batch_size=16, evaluation_batch_size=at_once, seed=self.seed)

    def sudoku_task(self, kind: Any) -> SudokuTask:
        recipe = Recipe(min_steps=2, max_steps=4) if kind != "feed_forward" else Recipe()
        optimisation = Optimisation(lr=3e-3, betas=(0.9, 0.98), min_lr_ratio=0.05)
        thinking: dict[str, Any] = {"step_size_scale": 0.35, "candidate_noise": 0.3} if kind == "ebt" else {}
        return SudokuTask(
            SudokuNetwork("nano", layers=4, kind=kind, **thinking), recipe, optimisation=optimisation, seed=self.seed
        )

    def text_task(self, kind: Any) -> LanguageTask:
        recipe = Recipe.warm() if kind == "ebt" else Recipe()
        optimisation = Optimisation(lr=4e-3, betas=(0.9, 0.98), min_lr_ratio=0.05)
        network = LanguageNetwork("nano", dim=96, kind=kind)
        return LanguageTask(network, recipe, optimisation=optimisation, sample_every=0, seed=self.seed)


@cache
def boards_of(settings: Settings) -> SudokuDataModule:
    """Return the puzzles of the demo, which all jobs of a process share."""
    data = settings.boards()
    data.prepare()
    return data


@cache
def text_of(settings: Settings) -> TextDataModule:
    """Return the text of the demo, which all jobs of a process share."""
    data = settings.text()
    data.prepare()
    return data


def train(task: ModelTask, data: Any, updates: int, folder: Path, report: Report, *callbacks: L.Callback) -> dict[str, Any]:
    """Train for a number of updates, save the model, and return its size and processor time."""
    data.prepare()
    began = time.process_time()
    training.train(task, data, updates, report, *callbacks)
    return _save(task, data, folder, updates, time.process_time() - began)


def train_for(task: ModelTask, data: Any, seconds: float, folder: Path, report: Report, average: float = 0.0) -> dict[str, Any]:
    """Train for ``seconds`` of processor time, which the learning rate schedule spans; otherwise like ``train``."""
    data.prepare()
    made = training.train_for(task, data, seconds / 60, report, average)
    return _save(task, data, folder, made["updates"], made["seconds"])


def _save(task: ModelTask, data: Any, folder: Path, updates: int, seconds: float) -> dict[str, Any]:
    save_folder(task.model, folder, getattr(data, "tokenizer", None))
    size = sum(parameter.numel() for parameter in task.model.parameters())
    return {"parameters": size, "updates": updates, "train_seconds": seconds}


def train_sudoku(settings: Settings, folder: Path, kind: str, seconds: float | None, report: Report) -> dict[str, Any]:
    """Train a Sudoku model with averaged weights, and return its size and time, and a baseline's curves by givens.

    Args:
        settings: Size of the demo.
        folder: Folder of the model.
        kind: Kind of the network.
        seconds: Processor time of the training; None for a number of updates.
        report: Called with the progress.
    """
    task, data, updates = settings.sudoku_task(kind), boards_of(settings), settings.sudoku_updates
    decay = max(0.0, 1 - 5 / updates)
    if seconds is None:
        average = WeightAverage(decay=decay, update_starting_at_step=updates // 2)
        made = train(task, data, updates, folder, report, average)
    else:
        made = train_for(task, data, seconds, folder, report, decay)
    if kind != "ebt":
        return {**made, "curves": {givens: solve(settings, folder, givens, 1, report) for givens in GIVENS}}
    config = task.model.config
    config.steps, config.candidates, config.rule = max(SUDOKU_STEPS), CANDIDATES, RULE
    save_folder(task.model, folder)
    return made  # its curves take longer, so each is a separate job


def solve(settings: Settings, folder: Path, givens: int, candidates: int, report: Report) -> dict[str, Any]:
    """Return the curve of a saved model on test boards. With several candidates, only the first boards are solved."""
    count = settings.sudoku_tests if candidates == 1 else settings.sudoku_verified
    boards = boards_of(settings).sets[f"givens_{givens}"]
    curve = sudoku_curve(
        load_folder(folder),
        torch.as_tensor(boards.puzzles[:count]),
        torch.as_tensor(boards.solutions[:count]),
        SUDOKU_STEPS,
        (candidates,),
        tolerance=TOLERANCE[candidates],
        rule=RULE if candidates > 1 else "lowest",
        batch_size=64,
        seed=settings.seed,
        progress=lambda done, total: report(done, total or done, f"{givens} givens"),
    )
    return finite(curve)


def train_text(settings: Settings, folder: Path, kind: str, seconds: float | None, report: Report) -> dict[str, Any]:
    """Train a language model. Returns size, time, and curves on validation and test text; see ``train_sudoku``."""
    task, data = settings.text_task(kind), text_of(settings)
    if seconds is None:
        made = train(task, data, settings.text_updates, folder, report)
    else:
        made = train_for(task, data, seconds, folder, report)
    model = load_folder(folder)
    loaders = {"validation": data.val_dataloader(), "test": data.test_dataloader()}
    curves = {split: _read(settings, model, loader, split, report) for split, loader in loaders.items()}
    if kind == "ebt":
        model.config.steps = best_steps(curves["validation"])
        save_folder(model, folder, data.tokenizer)
    return {**made, "curves": curves, "data": data.statistics()}


def best_steps(curve: dict[str, Any]) -> int:
    """Return the number of thinking steps with the lowest cross entropy."""
    return min(curve["points"], key=lambda point: point["nats"])["steps"]


def _read(settings: Settings, model: Any, loader: Any, split: str, report: Report) -> dict[str, Any]:
    """Return the curve of a language model on the first contexts of a split."""
    batches = [batch for batch, _ in zip(loader, range(-(-settings.text_contexts // loader.batch_size)), strict=False)]
    total = sum(len(batch["input_ids"]) for batch in batches)

    def progress(done: int, _: int | None) -> None:
        report(done, total, split)

    return finite(language_curve(model, batches, TEXT_STEPS, seed=settings.seed, progress=progress))
