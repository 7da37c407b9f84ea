"""Plain training and generation, as in the published code, for comparison.

Observed tokens and predictions form one sequence of twice the length. Every step recomputes it, and gradients of gradients pass
through all of it. States are V logits, and ordinary back-propagation keeps every graph. With the same weights, losses and
gradients equal those of the library (see tests/benchmarks).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ebt.nn.blocks import Block, attend_context_and_self, rotation
from ebt.problems.language.ebt import EBTForCausalLM
from ebt.thinking import Recipe, Restart, Simplex, Supervised, supervise


class OneSequence:
    """Energies of predictions for the tokens after ids (B, S), for networks without anchor and conditioning."""

    def __init__(self, model: EBTForCausalLM, ids: Tensor) -> None:
        self.model, self.ids = model, ids

    def __call__(self, candidate: Tensor, step: int) -> Tensor:
        network, length = self.model.network, self.ids.shape[1]
        x = torch.cat((self.model.embedding(self.ids), candidate), 1) * network.scale
        index = torch.arange(length, device=x.device)
        rotary = rotation(torch.cat((index, index + 1)), x.shape[-1] // network.config.heads, network.config.rope_theta, x)
        for block in network.blocks:
            x = _run(block, x, rotary, length)
        return network.head(x[:, length:], candidate * network.scale)


def _run(block: Block, x: Tensor, rotary: Tensor, length: int) -> Tensor:
    """Run a block: predictions attend to earlier observed tokens and to themselves, observed tokens to no prediction."""
    earlier = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()

    def attend(*projected: Tensor) -> tuple[Tensor]:
        observed, predicted = zip(*(part.split(length, 2) for part in projected), strict=True)
        scores = observed[0] @ observed[1].transpose(-1, -2) * observed[0].shape[-1] ** -0.5
        seen = scores.masked_fill(~earlier, float("-inf")).softmax(-1) @ observed[2]
        return (torch.cat((seen, attend_context_and_self(*predicted, *observed[1:], earlier)), 2),)

    return block(x, attend, rotary)[0]


def supervise_plainly(
    model: EBTForCausalLM, ids: Tensor, target: Tensor, recipe: Recipe, steps: int, generator: torch.Generator
) -> Supervised:
    """Supervise one training batch with the restart update on V logits."""
    simplex, energy = Simplex(2, model.geometry().table), OneSequence(model, ids)
    start = simplex.start(tuple(ids.shape), recipe.start_std, generator)
    return supervise(energy, simplex, Restart(), start, target, model.step_size, recipe, generator, steps, backend="plain")
