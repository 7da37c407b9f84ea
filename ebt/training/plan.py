"""Cost of a training run by arithmetic: operations per token, memory per device, days.

Symbols: N non-embedding weights, V vocabulary size, D width, L layers, S context length.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ebt.errors import InputError
from ebt.thinking import Recipe

DAY = 86_400
USABLE = 0.9
"""Share of a device's memory that a plan uses. The rest is for kernels, communication and fragmentation."""


@dataclass(frozen=True)
class Sizes:
    """The sizes that the number of operations depends on."""

    network: int
    """N, without adaptive norms, which run per step and not per token."""
    layers: int
    dim: int
    vocabulary: int
    context: int
    contexts: int = 1
    """How often the context of a batch is encoded: once, or once per step index if it depends on that."""

    @property
    def attention(self) -> int:
        """2 L S D, the number of weights that cost as much as attention over S positions (scores and values, no mask)."""
        return 2 * self.layers * self.context * self.dim

    @property
    def words(self) -> int:
        """V D, the weights of the output layer."""
        return self.vocabulary * self.dim


def sizes_of(network: Any, recipe: Recipe, vocabulary: int, context: int) -> Sizes:
    """Return the sizes of training a network of ``ebt.nn`` on contexts of ``context`` positions (``vocabulary`` may be 0)."""
    config = network.config
    weights = sum(weight.numel() for name, weight in network.named_parameters() if "modulation" not in name)
    contexts = min(recipe.told_steps, config.conditioned_steps) if config.context_per_step else 1
    return Sizes(weights, config.layers, config.dim, vocabulary, context, contexts)


@dataclass(frozen=True)
class Operations:
    """Minimum operations per token of one update, forward and backward. A multiply-add counts as two operations."""

    network: float
    attention: float
    vocabulary: float

    @property
    def total(self) -> float:
        return self.network + self.attention + self.vocabulary


def floor(sizes: Sizes, recipe: Recipe | None, steps: float) -> Operations:
    """Return the minimum operations per new token of an update with ``steps`` steps; of Transformer++ without a recipe.

    Transformer++ takes 6 operations per weight. An EBT takes 6 per weight for each encoding of the context, plus 12 for a step
    with an exact gradient (2 forward, 2 for the descent, 8 for the gradient of both), 16 for one with central differences (4
    for the descent, two passes of 6), 4 for other steps and those of a burn-in, and 6 for ``ranking``. What is computed again
    is not counted (below 1 for central differences without ``checkpoint_activations``; 6 for ``ranking``). ``second_order:
    auto`` counts as exact (see ``Recipe.on``). Per output weight (V D), it takes 6 for a candidate with a loss, 4 for one
    without, and 4 more for each candidate but the first with full gradients. Replayed rows come on top. In the warm start,
    without replay, the numbers are 12 and 6.
    """
    if recipe is None:
        return Operations(6.0 * sizes.network, 6.0 * sizes.attention, 6.0 * sizes.words)
    graded = 1 if recipe.gradients == "truncated" else steps
    weight = 6 * sizes.contexts + (16 if recipe.second_order == "central" else 12) * graded + 4 * (steps - graded)
    word = 6 * steps if recipe.loss == "every" else 6 + 4 * (steps - 1)
    weight += 6 * (recipe.ranking > 0)
    if recipe.gradients == "full":
        word += 4 * (steps - 1)
    warm, rows = recipe.warm_start, 1 + recipe.replay_fraction
    weight, word = warm * 12 + (1 - warm) * rows * weight, warm * 6 + (1 - warm) * rows * word
    weight, word = (cost + 4 * rows * recipe.mean_burn_in for cost in (weight, word))
    return Operations(weight * sizes.network, weight * sizes.attention, word * sizes.words)


@dataclass(frozen=True)
class Memory:
    """Memory per device by part, in bytes."""

    weights: int
    gradients: int
    optimiser: int
    activations: int
    """Activations of the blocks and temporary tensors."""
    vocabulary: int
    """Additional activations due to the vocabulary."""
    communication: int
    """Buffers for all-reduced gradients, or, with sharded weights, the gathered weights and their gradients."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimiser + self.activations + self.vocabulary + self.communication


def tokens_per_day(devices: int, flops: float, per_token: float) -> float:
    """Return the tokens per day of ``devices`` that each achieve ``flops`` operations per second."""
    return devices * flops * DAY / per_token


def largest_batch(peak: Callable[[int], int], room: float) -> int:
    """Return the largest batch size whose ``peak`` bytes fit into ``room`` bytes, or 0 if a single context does not fit.

    Memory is nearly linear in the batch size. The estimate from batch sizes 1 and 2 is checked, and lowered if necessary.
    """
    one, two = peak(1), peak(2)
    if one > room:
        return 0
    each = max(1, two - one)
    batch = 1 + math.floor((room - one) / each)
    while batch > 1 and (excess := peak(batch) - room) > 0:
        batch = max(1, batch - math.ceil(excess / each))
    return batch


def parse_bytes(text: str) -> int:
    """Parse a memory size such as ``80GB`` or ``40 GiB`` to bytes.

    Raises:
        InputError: The text is not a memory size.
    """
    found = re.fullmatch(r"([\d.]+(?:E[+-]?\d+)?) ?(?:([KMGT])(I?))?B", text.strip().upper())
    with suppress(ValueError, OverflowError):
        if found:
            power = " KMGT".index(found[2] or " ")
            if (size := int(float(found[1]) * (1024 if found[3] else 1000) ** power)) >= 1:
                return size
    raise InputError(f"{text!r} is not a memory size: give a number with a unit, for example 80GB or 40GiB.")
