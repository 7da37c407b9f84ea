"""Sudoku: fill in all empty cells of a board at once, by thinking, in one pass, or with a loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ebt.models.base import HubModel
from ebt.problems.pretrained import start_from
from ebt.problems.sudoku.configuration import EBTSudokuConfig, SudokuTransformerConfig
from ebt.problems.sudoku.models import Boards, EBTForSudoku, SudokuTransformer
from ebt.thinking import Recipe
from ebt.training.cells import LOOPS, CellsNetwork, CellsTask
from ebt.training.task import RECIPE


@dataclass(frozen=True)
class SudokuNetwork(CellsNetwork):
    """A model of boards: ``ebt``; ``feed_forward``, one pass; ``looped_prediction`` and ``looped_hidden``, which repeat the
    same blocks with their last prediction or hidden state; or ``recursive``, a tiny recursive model."""

    rules: bool = False
    """Whether attention knows which cells share a row, a column or a box."""
    loads_pretrained: ClassVar = True

    def build(self, board: int, recipe: Recipe, steps: int) -> HubModel:
        """Build the model, with fresh weights unless it is pretrained.

        Raises:
            InputError: If a pretrained model does not fit, see ``ebt.problems.pretrained.start_from``.
        """
        if self.pretrained is not None:
            kinds: dict[str, type[HubModel]] = {"ebt": EBTForSudoku, **dict.fromkeys(LOOPS, SudokuTransformer)}
            return start_from(self, recipe, kinds, lambda fresh: fresh.build(board, recipe, steps), board=board)
        fields = {"board": board, "rules": self.rules, **self.fields(recipe, steps)}
        if self.kind == "ebt":
            return EBTForSudoku(EBTSudokuConfig(**fields))
        return SudokuTransformer(SudokuTransformerConfig(**fields))


NETWORK = SudokuNetwork()


class SudokuTask(CellsTask):
    """Complete boards. The loss is in nats per empty cell.

    Batches have ``puzzle`` and ``solution`` (B, C), 0 where empty. The size of the board is that of the trainer's data module
    (``size``). Loops train with a random number of iterations and a loss at each one, as set by the recipe's ``min_steps``,
    ``max_steps``, ``loss`` and ``burn_in``.

    Args:
        network: The model.
        recipe, settings: See ``ThinkingTask``.

    Also logged, in [0, 1]: exact, the share of boards without a wrong cell, and cells, the share of right empty cells. Energies
    are sums over a board.
    """

    CELLS = Boards
    NAMES = ("puzzle", "solution")

    def __init__(self, network: SudokuNetwork = NETWORK, recipe: Recipe = RECIPE, **settings: Any) -> None:
        super().__init__(network=network, recipe=recipe, **settings)

    def build(self) -> HubModel:
        (board,) = self.of_data("size")
        return self.network.build(board, self.recipe, self.steps)
