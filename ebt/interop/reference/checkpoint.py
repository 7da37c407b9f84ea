"""Read checkpoints of the published code without executing code in them, and convert them."""

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
"""Prefixes of the trainer's weight names, compiled or not."""


@dataclass(frozen=True)
class Converted:
    """A converted checkpoint."""

    model: HubModel
    recipe: Recipe | None
    """Its training recipe; None for a model without an energy."""
    tokenizer: str | None
    """The name of its tokenizer, for a text model."""
    update: int
    """Number of training updates."""


def read(path: str | PathLike[str]) -> Converted:
    """Read and convert a checkpoint of the published code.

    Raises:
        InputError: The file is missing, damaged, contains code, or is not a checkpoint of the published code; or a weight or
            hyper-parameter, which the message names, is missing, unknown or not supported.
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
                f"{path} contains more than tensors and plain values. Loading it could execute code, so it is refused. "
                "Save it again with tensors and plain values only"
            ) from error
        raise InputError(f"not a PyTorch checkpoint: {path} ({_first_line(error)}). Check the file") from error
    except Exception as error:  # a damaged file may raise anything
        raise InputError(f"not a PyTorch checkpoint, or truncated: {path} ({_first_line(error)}). Copy it again") from error
    if not isinstance(checkpoint, dict):
        raise InputError(f"{path} contains a {type(checkpoint).__name__}: give a checkpoint of the published code")
    for key in ("state_dict", "hyper_parameters"):
        if not isinstance(checkpoint.get(key), Mapping):
            found = ", ".join(map(str, list(checkpoint)[:4]))
            raise InputError(
                f"{path} has no {key} (it has: {found}) and is from another framework. Give a checkpoint written by the "
                "published code's trainer (PyTorch Lightning)"
            )
    return checkpoint


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def _weights(path: str | PathLike[str], state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the model's weights under names without the trainer's prefix."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        prefix = next((prefix for prefix in PREFIXES if str(name).startswith(prefix)), None)
        if prefix is None or not isinstance(value, Tensor):
            raise InputError(f"{path}: the entry {name} of state_dict is not a weight: weights are tensors named 'model. ...'")
        if not torch.isfinite(value).all():
            raise InputError(f"{path}: the weight {name} is not finite, so the training diverged: use an earlier one")
        found[name.removeprefix(prefix)] = value
    return found
