"""Pictures from evaluation results; each function writes one PNG from what the JSON files hold."""

from ebt.plots.boards import board_strip
from ebt.plots.curves import energy_curve, thinking_curve
from ebt.plots.tokens import token_heat_map

__all__ = ["board_strip", "energy_curve", "thinking_curve", "token_heat_map"]
