"""What thinking is worth: quality against steps and candidates, energies of tokens and boards. Results go to JSON."""

from ebt.evaluation.descents import thinks
from ebt.evaluation.detection import auroc
from ebt.evaluation.language import language_curve
from ebt.evaluation.results import Curve, LanguagePoint, Point, SudokuPoint, to_json, write_json
from ebt.evaluation.sudoku import BoardThinking, sudoku_curve, watch_board
from ebt.evaluation.tokens import TokenEnergies, token_energies

__all__ = [
    "BoardThinking",
    "Curve",
    "LanguagePoint",
    "Point",
    "SudokuPoint",
    "TokenEnergies",
    "auroc",
    "language_curve",
    "sudoku_curve",
    "thinks",
    "to_json",
    "token_energies",
    "watch_board",
    "write_json",
]
