"""Runs of the Sudoku study: train models for equal time and measure them on boards."""

from __future__ import annotations

import json
from copy import copy
from functools import cache
from typing import Any

import torch

from ebt.files import finite
from ebt.lab.studies.pool import Report
from ebt.lab.studies.runs import Json
from ebt.lab.studies.trained import train_from_settings
from ebt.problems.folder import load_folder
from ebt.problems.sudoku.data import SudokuDataModule
from ebt.problems.sudoku.metrics import sudoku_curve
from ebt.problems.sudoku.task import SudokuNetwork, SudokuTask


def _boards(data: Json, places: Json, seed: int) -> SudokuDataModule:
    made = copy(_prepared(json.dumps(data), places["collection"]))
    made.seed = seed  # only the order and the relabelling depend on the seed, not the puzzles
    return made


@cache
def _prepared(data: str, collection: str | None) -> SudokuDataModule:
    """Generate the puzzles once per process."""
    settings = json.loads(data)
    made = SudokuDataModule(collection=collection, seed=0, **{**settings, "train_givens": tuple(settings["train_givens"])})
    made.prepare()
    return made


def train_board_model(settings: Json, places: Json, report: Report) -> dict[str, Any]:
    """Train a model for its time budget, and save it."""
    report(0, 1, "preparing puzzles")
    data = _boards(settings["data"], places, settings["seed"])
    made = train_from_settings(SudokuTask, SudokuNetwork, data, settings, places, report)
    return {**made, "puzzles": len(data.sets["train"].puzzles)}


def measure_boards(settings: Json, places: Json, report: Report) -> dict[str, Any]:
    """Measure solved boards, correct cells and evaluations for each number of steps and candidates."""
    device = settings["model"].get("device", "cpu")
    model: Any = load_folder(places["model"]).to(device)
    data, chosen = settings["model"]["data"], dict[str, float]()
    if "choosing" in settings:
        report(0, 1, "choosing on validation boards")
        chosen = _chosen(places["model"], json.dumps(data), places["collection"], json.dumps(settings["choosing"]), device)
        model.thinking = model.thinking.but(step_size_scale=chosen["scale"], noise=chosen["noise"])
    boards = _boards(data, places, 0).sets["hard" if settings["givens"] == "hard" else f"givens_{settings['givens']}"]
    puzzles, solutions = (torch.as_tensor(part) for part in boards)

    def progress(done: int, total: int | None) -> None:
        report(done, total or done, "")

    how: dict[str, Any] = {"tolerance": settings.get("tolerance"), "progress": progress}
    return {**finite(sudoku_curve(model, puzzles, solutions, settings["steps"], settings["candidates"], **how)), **chosen}


@cache
def _chosen(folder: str, data: str, collection: str | None, choosing: str, device: str) -> dict[str, float]:
    """Choose the step size with one candidate and the noise with several by solved validation boards, ties by correct cells."""
    model: Any = load_folder(folder).to(device)
    puzzles, solutions = (torch.as_tensor(part) for part in _prepared(data, collection).sets["validation"])
    how = json.loads(choosing)

    def solved(scale: float, noise: float, candidates: int) -> tuple[float, float]:
        options: dict[str, Any] = {"step_size_scale": scale, "noise": noise}
        (point,) = sudoku_curve(model, puzzles, solutions, [how["steps"]], [candidates], **options).points
        return point.exact, point.cell

    scale = max(how["scales"], key=lambda scale: solved(scale, 0.0, 1))
    return {"scale": scale, "noise": max(how["noises"], key=lambda noise: solved(scale, noise, how["candidates"]))}
