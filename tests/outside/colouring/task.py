"""Training: cross entropy of the nodes that are not given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from colouring.model import ColouringConfig, EBTForColouring
from ebt import Recipe
from ebt.thinking import IGNORED
from ebt.training.model_task import ModelTask, Network
from ebt.training.optimisation import Optimisation
from ebt.training.task import Batch


@dataclass(frozen=True)
class GraphNetwork(Network):
    """An EBT of graphs."""


class GraphTask(ModelTask):
    """Colour graphs."""

    def __init__(
        self,
        network: GraphNetwork = GraphNetwork(),
        recipe: Recipe = Recipe(),  # noqa: B008
        optimisation: Optimisation = Optimisation(),  # noqa: B008
        **settings: Any,
    ) -> None:
        super().__init__(recipe=recipe, optimisation=optimisation, **settings)
        self.network = network

    def build(self) -> EBTForColouring:
        nodes, colours = self.of_data("nodes", "colours")
        fields = {**self.network.sizes(), **self.network.thinking(self.recipe, self.steps)}
        return EBTForColouring(ColouringConfig(nodes, colours, **fields))

    def context(self, batch: Batch) -> Tensor:
        return batch["graph"]

    def target(self, batch: Batch) -> Tensor:
        return torch.where(batch["graph"][..., -1] == 0, batch["colour"] - 1, IGNORED)

    def parts(self, batch: Batch) -> tuple[int, ...]:
        return tuple(batch["colour"].shape)
