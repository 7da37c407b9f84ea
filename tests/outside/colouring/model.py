"""One simplex of colours a node; the energy of a graph is the sum over its nodes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ebt import Geometry, StepSize, Thinking, Thought
from ebt.models.base import Prediction, ThinkingModel
from ebt.models.configuration import ThinkingFields
from ebt.nn import EBTEncoder, EncoderLandscape


class ColouringConfig(ThinkingFields):
    """Graphs of ``nodes`` nodes in ``colours`` colours."""

    model_type = "colouring"

    def __init__(self, nodes: int = 8, colours: int = 3, space: str = "restart", **kwargs: Any) -> None:
        self.nodes, self.colours = nodes, colours
        super().__init__(space=space, **kwargs)


class EBTForColouring(ThinkingModel):
    """Colours the nodes of graphs (B, N, N + 1): neighbours, and the colour that is given (0: none)."""

    config_class = ColouringConfig

    def __init__(self, config: ColouringConfig) -> None:
        super().__init__(config)
        self.neighbours = nn.Linear(config.nodes, config.dim)
        self.given = nn.Embedding(config.colours + 1, config.dim)
        self.colours = nn.Embedding(config.colours, config.dim)
        self.network = EBTEncoder(config.network(), config.energy_scale)
        self.step_size = StepSize(config.step_size, config.learn_step_size)
        self.post_init()

    def landscape(self, graph: Tensor) -> EncoderLandscape:
        given = graph[..., -1].long()
        return self.network.encode(self.neighbours(graph[..., :-1]) + self.given(given), free=given == 0)

    def geometry(self) -> Geometry:
        return self.config.make_geometry(1, self.colours.weight, self.config.input_gradient)

    def parts(self, graph: Tensor) -> tuple[int, ...]:
        return tuple(graph.shape[:2])

    def answer(self, graph: Tensor, thought: Thought, how: Thinking) -> Tensor:
        given = graph[..., -1].long()
        return given.where(given > 0, thought.geometry.decide(thought.state) + 1)

    def forward(self, graph: Tensor, **options: Any) -> Prediction:
        thought = self.think(graph, **options)
        return Prediction(thought.answer, thought.energy, thought.steps)
