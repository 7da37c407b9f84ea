"""Mazes: mark all open squares at once as on the path or not, by thinking, in one pass, or with a loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ebt.models.base import HubModel
from ebt.problems.mazes.configuration import EBTMazesConfig, MazeTransformerConfig
from ebt.problems.mazes.models import EBTForMazes, Mazes, MazeTransformer
from ebt.problems.pretrained import start_from
from ebt.thinking import Recipe
from ebt.training.cells import LOOPS, CellsNetwork, CellsTask
from ebt.training.task import RECIPE


@dataclass(frozen=True)
class MazeNetwork(CellsNetwork):
    """A model of mazes: ``ebt``; ``feed_forward``, one pass; ``looped_prediction`` and ``looped_hidden``, which repeat the
    same blocks with their last prediction or hidden state; or ``recursive``, a tiny recursive model."""

    loads_pretrained: ClassVar = True

    def build(self, recipe: Recipe, steps: int) -> HubModel:
        """Build the model, with fresh weights unless it is pretrained.

        Raises:
            InputError: If a pretrained model does not fit, see ``ebt.problems.pretrained.start_from``.
        """
        if self.pretrained is not None:
            kinds: dict[str, type[HubModel]] = {"ebt": EBTForMazes, **dict.fromkeys(LOOPS, MazeTransformer)}
            return start_from(self, recipe, kinds, lambda fresh: fresh.build(recipe, steps))
        fields = self.fields(recipe, steps)
        return EBTForMazes(EBTMazesConfig(**fields)) if self.kind == "ebt" else MazeTransformer(MazeTransformerConfig(**fields))


NETWORK = MazeNetwork()


class MazeTask(CellsTask):
    """Mark the shortest path of mazes. The loss is in nats per open square, start and goal not counted.

    Batches have ``maze`` and ``path`` (B, C). Loops train with a random number of iterations and a loss at each one, as set by
    the recipe's ``min_steps``, ``max_steps``, ``loss`` and ``burn_in``.

    Args:
        network: The model.
        recipe, settings: See ``ThinkingTask``.

    Also logged, in [0, 1]: exact, the share of mazes without a wrong square, and cells, the share of right open squares.
    Energies are sums over a maze.
    """

    CELLS = Mazes
    NAMES = ("maze", "path")

    def __init__(self, network: MazeNetwork = NETWORK, recipe: Recipe = RECIPE, **settings: Any) -> None:
        super().__init__(network=network, recipe=recipe, **settings)

    def build(self) -> HubModel:
        return self.network.build(self.recipe, self.steps)
