"""How a training takes gradients of gradients. It is decided in one place, before training starts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import lightning as L
import torch
from torch import nn

from ebt.errors import InputError
from ebt.thinking import Recipe
from ebt.thinking.fast.central import nudge_size, way_on

_DTYPES = {
    "64-true": torch.float64,
    "bf16-true": torch.bfloat16,
    "bf16-mixed": torch.bfloat16,
    "16-true": torch.float16,
    "16-mixed": torch.float16,
}
_TWICE = ("derivative for", "differentiate twice", "once_differentiable", "higher order", "double backward")
"""Words of PyTorch's errors about functions that have no second derivative."""


@dataclass(frozen=True)
class SecondOrder:
    """The way in which a training takes gradients of gradients."""

    way: Literal["exact", "central"]
    nudge: float | None
    """Size of central differences, relative to the norm of a candidate."""
    reason: str

    def __str__(self) -> str:
        what = "exact" if self.way == "exact" else f"central differences, nudge {self.nudge:g}"
        return f"{what} ({self.reason})"

    def of(self, recipe: Recipe) -> Recipe:
        """The recipe with this way."""
        return replace(recipe, second_order=self.way, nudge=self.nudge)

    def hyperparameters(self) -> dict[str, Any]:
        """The fields that are set, under the names by which loggers record them."""
        return {f"second_order/{name}": value for name, value in asdict(self).items() if value is not None}


def choose(
    recipe: Recipe, device: str, dtype: torch.dtype, *, compiles: bool = False, sharded: bool = False, checkpoints: bool = False
) -> SecondOrder:
    """Choose how to take gradients of gradients.

    ``auto`` is exact for uncompiled, unsharded training without activation checkpoints on CPUs, else central.

    Args:
        recipe: The training recipe.
        device: Type of the device.
        dtype: Precision in which the network computes.
        compiles: Whether the model is compiled.
        sharded: Whether the strategy shards the weights.
        checkpoints: Whether activations are computed again in backward passes.

    Raises:
        InputError: If the recipe's way does not work with the other settings, or its nudge is lost in rounding.
    """
    causes = {"--compile": compiles, "sharded weights": sharded, "checkpointed activations": checkpoints}
    found = [name for name, holds in {device: device != "cpu", **causes}.items() if holds]
    way, reason = way_on(device, recipe.second_order), "recipe.second_order"
    if recipe.second_order == "auto":
        way, reason = "central" if found else way, f"auto: {', '.join(found) or 'CPU'}"
    if way == "exact":
        if sharded:
            raise InputError(
                "recipe.second_order is exact, but a model with sharded weights cannot be differentiated twice: set it to "
                "central or auto."
            )
        return SecondOrder("exact", None, reason)
    try:
        return SecondOrder("central", nudge_size(recipe.nudge, dtype, device), reason)
    except ValueError as error:
        raise InputError(f"recipe.{error}") from error


def computing_dtype(trainer: L.Trainer, module: nn.Module) -> torch.dtype:
    """Precision in which a network computes: that of the trainer, or without one, the lowest of the weights."""
    weights = {parameter.dtype for parameter in module.parameters() if parameter.is_floating_point()}
    lowest = max(weights, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float32)
    return _DTYPES.get(str(trainer.precision), lowest)


def not_twice(error: RuntimeError) -> bool:
    """Whether an error says that a function has no second derivative."""
    return any(words in str(error) for words in _TWICE)


def once_only(error: RuntimeError) -> InputError:
    """Return the error for an energy whose double backward failed."""
    reason = str(error).strip().partition("\n")[0]
    return InputError(
        f"the energy cannot be differentiated twice ({reason}): set recipe.second_order to central, which needs first "
        "derivatives only."
    )
