"""Alarms for thinking that changes nothing and for energies that rise."""

from __future__ import annotations

import torch

from ebt.thinking import Thought


class ThinkingWarning(UserWarning):
    """Thinking looks broken although all values are finite."""

    alarm = True
    """Shown as an alarm by ``ebt.errors.show_warning``."""


@torch.no_grad()
def alarms(thought: Thought, least_change: float = 1e-4) -> list[str]:
    """Problems with thinking in a record of at least two steps with all states. Empty if there are none.

    Energies are judged by the mean of the function that the updates descend (``Update.objective``), from the first step on.
    """
    found: list[str] = []
    if len(thought.states) < 2:
        return found
    first, last = thought.states[0], thought.states[-1]
    change = thought.geometry.change(first, last).mean().item()
    if change < least_change:
        found.append(
            f"thinking changes nothing: from step 1 to step {len(thought.states)} predictions move by {change:.1e} on average. "
            "The model ignores its candidates: raise the step size or the learning rate, or train with more steps."
        )
    measured = min(len(thought.states), thought.energies.shape[0] - 1)
    height = [thought.geometry.per_prediction(thought.objective(i)).mean().item() for i in range(measured)]
    if len(height) > 1 and height[-1] > height[0] + 1e-6 * abs(height[0]):
        found.append(
            f"energies rise while thinking: from {height[0]:.4g} after step 1 to {height[-1]:.4g} after step {len(height)}. "
            "The step size is too large for this landscape: lower it, or train with random step sizes."
        )
    return found
