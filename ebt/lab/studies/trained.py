"""Models of runs: built from their settings, trained for updates or for minutes, and saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ebt.lab.studies.pool import Report
from ebt.lab.studies.runs import Json
from ebt.problems.folder import save_folder
from ebt.thinking import Recipe
from ebt.training.loop import train, train_for
from ebt.training.model_task import ModelTask
from ebt.training.optimisation import Optimisation


def optimisation_of(settings: Json) -> Optimisation:
    """The optimisation of a run, whose betas are a list in JSON."""
    return Optimisation(**{**settings["optimisation"], "betas": tuple(settings["optimisation"]["betas"])})


def recipe_of(settings: Json) -> Recipe | None:
    """The recipe of a run; None for a model that does not think."""
    return None if settings["recipe"] is None else Recipe(**settings["recipe"])


def parameters_of(task: ModelTask) -> int:
    """How many numbers of a model are trained."""
    return sum(parameter.numel() for parameter in task.model.parameters())


def train_from_settings(
    task: Callable[..., ModelTask], network: Callable[..., Any], data: Any, settings: Json, places: Json, report: Report
) -> dict[str, Any]:
    """Build a model, train it, and save its folder.

    Args:
        task: makes the task of a network, ``optimisation``, ``seed``, and ``recipe`` where the settings have one.
        network: makes the network of ``kind`` and the settings ``network``.
        data: the data module.
        settings: of the run; with ``minutes`` of processor time to train, or else ``updates``.
        places: ``model`` is the folder.
        report: told of progress.

    Returns:
        parameters, seconds, and of a training for minutes what ``train_for`` tells.
    """
    recipe = recipe_of(settings)
    thinking = {} if recipe is None else {"recipe": recipe}
    network_ = network(kind=settings["kind"], **settings["network"])
    made = task(network_, optimisation=optimisation_of(settings), seed=settings["seed"], **thinking)
    if "minutes" in settings:
        spent = train_for(made, data, settings["minutes"], report, accelerator=settings.get("device", "cpu"))
    else:
        spent = {"seconds": train(made, data, settings["updates"], report)}
    save_folder(made.model, places["model"], getattr(data, "tokenizer", None))
    return {"parameters": parameters_of(made), **spent}
