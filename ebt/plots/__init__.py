"""Pictures from evaluation results; each function writes one PNG from what the JSON files hold."""

from ebt.plots.boards import board_strip
from ebt.plots.curves import energy_curve, thinking_curve
from ebt.plots.images import energy_against_error, energy_map, side_by_side
from ebt.plots.tokens import token_heat_map
from ebt.plots.video import film_strip, frame_energy_map, save_gif, side_by_side_frames

__all__ = [
    "board_strip",
    "energy_against_error",
    "energy_curve",
    "energy_map",
    "film_strip",
    "frame_energy_map",
    "save_gif",
    "side_by_side",
    "side_by_side_frames",
    "thinking_curve",
    "token_heat_map",
]
