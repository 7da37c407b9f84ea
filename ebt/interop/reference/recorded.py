"""What was recorded of a run: what went in, random draws included, and the names of what came out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ebt.errors import InputError
from ebt.interop.reference import settings
from ebt.interop.reference.settings import Settings
from ebt.thinking import Energy, Recipe, Supervised, supervise

Draw = tuple[str, Tensor]
"""Kind (rand, randint, randn) and values."""

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A recorded case with the hyper-parameters of one run: weights and inputs by their recorded names."""

    hparams: Settings
    weights: Tensors
    inputs: Tensors
    dtype: torch.dtype
    """To compute in."""

    def cast(self, tensors: Tensors) -> Tensors:
        """Tensors in that precision; whole numbers stay."""
        return {name: value.to(self.dtype) if value.is_floating_point() else value for name, value in tensors.items()}


@dataclass
class Draws:
    """The draws of a run, each kind in the order it was asked for."""

    draws: Sequence[Draw]
    dtype: torch.dtype
    used: set[int] = field(default_factory=set)

    def left(self, kind: str) -> list[Tensor]:
        """Those of a kind that nobody has taken yet."""
        return [values for i, (name, values) in enumerate(self.draws) if name == kind and i not in self.used]

    def take(self, kind: str) -> Tensor:
        """The next of a kind.

        Raises:
            InputError: there is none left.
        """
        for i, (name, values) in enumerate(self.draws):
            if name == kind and i not in self.used:
                self.used.add(i)
                return values.to(self.dtype) if values.is_floating_point() else values
        raise InputError(f"the run needs one more draw of kind {kind} than were recorded")


@dataclass
class RecordedNoise:
    """Langevin noise that was recorded, of each step in its turn."""

    draws: Draws
    first: int = 0
    taken: dict[int, Tensor] = field(default_factory=dict)

    def of(self, rows: slice) -> RecordedNoise:
        """The noise of some rows."""
        return replace(self, first=self.first + rows.start)

    def at(self, step: int) -> Callable[[Tensor], Tensor]:
        """The noise before a step."""

        def draw(like: Tensor) -> Tensor:
            if step not in self.taken:
                self.taken[step] = self.draws.take("randn")
            return self.taken[step][self.first : self.first + len(like)]

        return draw


def recorded_alpha(model: Any, predictions: tuple[int, ...], spread: float, draws: Draws) -> Tensor:
    """The step size, at random as it was recorded."""
    alpha: Tensor = model.step_size()
    if spread == 1:
        return alpha
    low, high = alpha / spread, alpha * spread
    return low + draws.take("rand").reshape(predictions) * (high - low)


def training_steps(hparams: Settings, draws: Draws) -> tuple[int, ...]:
    """The steps of a training batch: the recorded repeats of each landscape, or every landscape once."""
    landscapes, last_only = hparams["mcmc_num_steps"], hparams["randomize_mcmc_num_steps_final_landscape"]
    if not hparams["randomize_mcmc_num_steps"]:
        return tuple(range(landscapes))
    repeats = [int(draws.take("randint")) if i == landscapes - 1 or not last_only else 1 for i in range(landscapes)]
    return tuple(i for i, count in enumerate(repeats) for _ in range(count))


def start_of(given: Tensor, draws: Draws, steps: Sequence[int], noise: float) -> Tensor:
    """What thinking starts from: a draw of its own where there are more than the noise takes, or what was recorded."""
    return draws.take("randn") if len(draws.left("randn")) > (len(steps) if noise else 0) else given


def think_again(
    model: Any, landscape: Energy, start: Tensor, target: Tensor, recipe: Recipe, steps: tuple[int, ...], draws: Draws
) -> Supervised:
    """Think by a recipe, with all that was drawn taken from the record."""
    geometry = model.geometry()
    alpha = recorded_alpha(model, tuple(start.shape[: geometry.prediction_dims]), recipe.step_size_spread, draws)
    recipe, noise = replace(recipe, step_size_spread=1.0), RecordedNoise(draws)
    return supervise(landscape, geometry, model.update(), start, target, alpha, recipe, steps=steps, noise=noise)


def rerun(case: Case, run: str, draws: Draws, model: Any, landscape: Energy, given: Tensor, target: Tensor) -> Supervised:
    """A training batch, or an evaluation in runs whose names end so; ``given``: the start, unless it was drawn."""
    recipe, evaluates = settings.recipe_of(case.hparams, case.weights), run.endswith("eval")
    steps = settings.evaluation_schedule(case.hparams) if evaluates else training_steps(case.hparams, draws)
    recipe = replace(recipe, step_size_spread=1.0) if evaluates else recipe
    outcome = think_again(model, landscape, start_of(given, draws, steps, recipe.noise), target, recipe, steps, draws)
    if not evaluates:
        outcome.loss.backward()
    return outcome


def report(outcome: Supervised, state_name: str) -> Tensors:
    """What the published code reports of a batch, with its names."""
    thought, losses = outcome.thought, outcome.losses
    found = {f"energy.{i}": energy for i, energy in enumerate(thought.energies)}
    found |= {f"{state_name}.{i}": state for i, state in enumerate(thought.states)}
    gap = thought.energies[0].mean() - thought.energies[-1].mean()
    scalars = {"loss": outcome.loss, "initial_loss": losses[0], "final_step_loss": losses[-1], "energy_gap": gap}
    return {**found, **scalars}
