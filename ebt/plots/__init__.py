"""Pictures from evaluation results; each function writes one PNG from what the JSON files hold."""

from ebt.plots.boards import board_strip
from ebt.plots.curves import energy_curve, thinking_curve
from ebt.plots.images import energy_against_error, energy_map, side_by_side
from ebt.plots.tokens import token_heat_map

__all__ = [
    "board_strip",
    "energy_against_error",
    "energy_curve",
    "energy_map",
    "side_by_side",
    "thinking_curve",
    "token_heat_map",
]
