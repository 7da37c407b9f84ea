"""What a training will take: operations per token, memory of a device by part, days. Arithmetic alone.

Letters: N weights beside the tables of words, V words, D width, L layers, S positions of a context.
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
"""Share of a device's memory that a plan fills; the rest is left to kernels, communication and the gaps of the allocator."""


@dataclass(frozen=True)
class Sizes:
    """The sizes that operations depend on."""

    network: int
    """N, without adaptive norms, which work on a step and not on a token."""
    layers: int
    dim: int
    vocabulary: int
    context: int
    contexts: int = 1
    """How often a batch's context is computed: once, or at each step index where it depends on that."""

    @property
    def attention(self) -> int:
        """2 L S D: looking at S positions costs a token as much as so many weights (scores and values, without a mask)."""
        return 2 * self.layers * self.context * self.dim

    @property
    def words(self) -> int:
        """V D."""
        return self.vocabulary * self.dim


def sizes_of(network: Any, recipe: Recipe, vocabulary: int, context: int) -> Sizes:
    """Those of a network of ``ebt.nn`` that a recipe trains on contexts of ``context`` positions (no vocabulary: 0 words)."""
    config = network.config
    weights = sum(weight.numel() for name, weight in network.named_parameters() if "modulation" not in name)
    contexts = min(recipe.told_steps, config.conditioned_steps) if config.context_per_step else 1
    return Sizes(weights, config.layers, config.dim, vocabulary, context, contexts)


@dataclass(frozen=True)
class Operations:
    """The least operations per token, forward and backward, of one update; a multiplication with its addition is two."""

    network: float
    attention: float
    vocabulary: float

    @property
    def total(self) -> float:
        return self.network + self.attention + self.vocabulary


def floor(sizes: Sizes, recipe: Recipe | None, steps: float) -> Operations:
    """What the arithmetic demands of an update that thinks for ``steps`` steps; of Transformer++, where there is no recipe.

    Per weight, Transformer++: 6. EBT: 6 for each context; each step 12 if a gradient passes through it (2 forward, 2 for the
    descent, 8 for the gradient of both), else 4. Per word and width, 6 for the loss of a step, which hands over the next
    candidate; 4 for a candidate without a loss; 4 more for each candidate but the first whose gradient is wanted. A batch may
    have replayed rows in addition. In a warm start, where nothing is replayed, 12 and 6: a context, and a step whose descent
    does not pass the blocks.
    """
    if recipe is None:
        return Operations(6.0 * sizes.network, 6.0 * sizes.attention, 6.0 * sizes.words)
    graded = 1 if recipe.gradients == "truncated" else steps
    weight = 6 * sizes.contexts + 12 * graded + 4 * (steps - graded)
    word = 6 * steps if recipe.loss == "every" else 6 + 4 * (steps - 1)
    if recipe.gradients == "full":
        word += 4 * (steps - 1)
    warm, rows = recipe.warm_start, 1 + recipe.replay_fraction
    weight, word = warm * 12 + (1 - warm) * rows * weight, warm * 6 + (1 - warm) * rows * word
    return Operations(weight * sizes.network, weight * sizes.attention, word * sizes.words)


@dataclass(frozen=True)
class Memory:
    """Bytes of one device by part."""

    weights: int
    gradients: int
    optimiser: int
    activations: int
    """Of the blocks: what the backward passes need, and what is temporary."""
    vocabulary: int
    """What a vocabulary of this size adds to the activations."""
    communication: int
    """Gradients on their way to the other devices; if the weights are sharded, all of them, gathered for an update."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimiser + self.activations + self.vocabulary + self.communication


def tokens_per_day(devices: int, flops: float, per_token: float) -> float:
    """Tokens of ``devices`` that each reach ``flops`` operations a second."""
    return devices * flops * DAY / per_token


def largest_batch(peak: Callable[[int], int], room: float) -> int:
    """The most contexts whose ``peak`` bytes fit into ``room``; 0 if one alone does not.

    Memory grows by nearly as much with each context, so the guess that follows from one and two is checked and lowered.
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
    """Bytes of a text such as ``80GB`` or ``40 GiB``.

    Raises:
        InputError: it is none.
    """
    found = re.fullmatch(r"([\d.]+(?:E[+-]?\d+)?) ?(?:([KMGT])(I?)B|B?)", text.strip().upper())
    with suppress(ValueError, OverflowError):
        if found:
            power = " KMGT".index(found[2] or " ")
            if (size := int(float(found[1]) * (1024 if found[3] else 1000) ** power)) >= 1:
                return size
    raise InputError(f"{text!r} is not a size of memory: give a number with a unit, such as 80GB or 40GiB.")
