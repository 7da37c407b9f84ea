"""Hugging Face classes, saving and loading. Importing it makes the models known to ``transformers``' auto classes."""

from ebt.hub.auto import MODELS, register
from ebt.hub.causal_lm import EBTForCausalLM, EBTOutput
from ebt.hub.configuration import (
    DiTImagesConfig,
    EBTConfig,
    EBTImagesConfig,
    EBTSudokuConfig,
    EBTVideoConfig,
    SudokuTransformerConfig,
    TransformerPPConfig,
    VideoTransformerConfig,
)
from ebt.hub.diffusion import NoiseSchedule
from ebt.hub.folder import load_folder, load_tokenizer_of, save_folder
from ebt.hub.images import DiTForImages, EBTForImages
from ebt.hub.sudoku import EBTForSudoku, SudokuTransformer
from ebt.hub.tiles import by_tiles
from ebt.hub.transformer_pp import TransformerPPForCausalLM
from ebt.hub.video import EBTForVideo, VideoTransformer

register()

__all__ = [
    "MODELS",
    "DiTForImages",
    "DiTImagesConfig",
    "EBTConfig",
    "EBTForCausalLM",
    "EBTForImages",
    "EBTForSudoku",
    "EBTForVideo",
    "EBTImagesConfig",
    "EBTOutput",
    "EBTSudokuConfig",
    "EBTVideoConfig",
    "NoiseSchedule",
    "SudokuTransformer",
    "SudokuTransformerConfig",
    "TransformerPPConfig",
    "TransformerPPForCausalLM",
    "VideoTransformer",
    "VideoTransformerConfig",
    "by_tiles",
    "load_folder",
    "load_tokenizer_of",
    "save_folder",
]
