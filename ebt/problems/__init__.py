"""Problems: kinds of tasks, each a folder with everything that belongs to it.

Public names are looked up here. A problem is imported when one of its names is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

from ebt.errors import naming_extras

_HOMES = {
    "registry": ("Problem", "models", "problem_of", "problems"),
    "folder": ("load_folder", "load_tokenizer_of", "save_folder"),
    "images.configuration": ("DiTImagesConfig", "EBTImagesConfig"),
    "images.diffusion": ("NoiseSchedule",),
    "images.models": ("DiTForImages", "EBTForImages", "by_tiles"),
    "language.configuration": ("EBTConfig", "TransformerPPConfig"),
    "language.ebt": ("EBTForCausalLM", "EBTOutput"),
    "language.transformer_pp": ("TransformerPPForCausalLM",),
    "mazes.configuration": ("EBTMazesConfig", "MazeTransformerConfig"),
    "mazes.models": ("EBTForMazes", "MazeTransformer"),
    "sudoku.configuration": ("EBTSudokuConfig", "SudokuTransformerConfig"),
    "sudoku.models": ("EBTForSudoku", "SudokuTransformer"),
    "video.configuration": ("EBTVideoConfig", "VideoTransformerConfig"),
    "video.models": ("EBTForVideo", "VideoTransformer"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = list(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with naming_extras():
        importlib.import_module(f"{__name__}.registry").models()  # registers them with ``transformers``
        return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
