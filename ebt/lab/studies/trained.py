"""Build, train and save the models of runs from their settings."""

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
    """Return the optimisation of a run from its JSON settings."""
    return Optimisation(**{**settings["optimisation"], "betas": tuple(settings["optimisation"]["betas"])})


def recipe_of(settings: Json) -> Recipe | None:
    """Return the recipe of a run; None for a model without an energy."""
    return None if settings["recipe"] is None else Recipe(**settings["recipe"])


def parameters_of(task: ModelTask) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in task.model.parameters())


def train_from_settings(
    task: Callable[..., ModelTask], network: Callable[..., Any], data: Any, settings: Json, places: Json, report: Report
) -> dict[str, Any]:
    """Build a model, train it, and save it.

    Args:
        task: Creates the task from a network, ``optimisation``, ``seed``, and ``recipe`` if the settings have one.
        network: Creates the network from ``kind`` and the settings ``network``.
        data: The data module.
        settings: Settings of the run, with ``minutes`` of training time or ``updates``.
        places: Places of the run. ``model`` is the model folder.
        report: Called with the progress.

    Returns:
        ``parameters`` and ``seconds``; with ``minutes``, also the values of ``train_for``.
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
