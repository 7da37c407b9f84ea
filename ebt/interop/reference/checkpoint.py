"""Checkpoints of the published code: read without running any code in them, converted into our folders."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebt.errors import InputError
from ebt.interop.reference import settings
from ebt.interop.reference.models import convert
from ebt.models.base import HubModel
from ebt.thinking import Recipe

PREFIXES = ("model._orig_mod.", "model.")
"""Before every weight of the trainer's model, compiled or not."""


@dataclass(frozen=True)
class Converted:
    """A converted checkpoint."""

    model: HubModel
    recipe: Recipe | None
    """How it was trained; None for a model that does not think."""
    tokenizer: str | None
    """The name of its tokenizer, for a text model."""
    update: int
    """Updates that it had been trained for."""


def read(path: str | PathLike[str]) -> Converted:
    """Read and convert a checkpoint of the published code.

    Raises:
        InputError: no such file, no checkpoint or a damaged one, one that holds code, one of another framework, or weights or
            hyper-parameters that are missing, foreign, or without an equal here; always naming them.
    """
    checkpoint = _load(Path(path))
    hparams, state = checkpoint["hyper_parameters"], _weights(path, checkpoint["state_dict"])
    try:
        model = convert(hparams, state).float()
        recipe = settings.recipe(hparams, state) if hparams["model_name"] == "ebt" else None
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    tokenizer = hparams.get("tokenizer") if hparams["modality"] == "NLP" else None
    return Converted(model, recipe, tokenizer, int(checkpoint.get("global_step", 0)))


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"not a file: {path}. Give a checkpoint (.ckpt) of the published code")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() or "unsupported" in str(error).lower():
            raise InputError(
                f"{path} holds more than tensors and plain values; it would run code when it is read, and is refused. "
                "Save it again as tensors and plain values only"
            ) from error
        raise InputError(f"not a PyTorch checkpoint: {path} ({_first_line(error)}). Check the file") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"not a PyTorch checkpoint, or cut short: {path} ({_first_line(error)}). Copy it again") from error
    if not isinstance(checkpoint, dict):
        raise InputError(f"{path} holds a {type(checkpoint).__name__}, no checkpoint of the published code")
    for key in ("state_dict", "hyper_parameters"):
        if not isinstance(checkpoint.get(key), Mapping):
            found = ", ".join(map(str, list(checkpoint)[:4]))
            raise InputError(
                f"{path} has no {key} (it has: {found}): it is a checkpoint of another framework. Give one that the published "
                "code's trainer (PyTorch Lightning) wrote"
            )
    return checkpoint


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def _weights(path: str | PathLike[str], state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The model's weights without the trainer's prefix."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        prefix = next((prefix for prefix in PREFIXES if str(name).startswith(prefix)), None)
        if prefix is None or not isinstance(value, Tensor):
            raise InputError(
                f"{path}: the entry {name} of state_dict is not understood: weights are tensors named 'model. ...'"
            )
        if not torch.isfinite(value).all():
            raise InputError(f"{path}: the weight {name} is not finite: the training had diverged; take an earlier checkpoint")
        found[name.removeprefix(prefix)] = value
    return found
