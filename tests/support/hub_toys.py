"""Small models with random weights: fresh ones have flat energies and zero heads, which would hide most errors."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

from ebt.models.base import HubModel
from ebt.problems.images.configuration import DiTImagesConfig, EBTImagesConfig
from ebt.problems.images.models import DiTForImages, EBTForImages
from ebt.problems.language.configuration import EBTConfig, TransformerPPConfig
from ebt.problems.language.ebt import EBTForCausalLM
from ebt.problems.language.transformer_pp import TransformerPPForCausalLM
from ebt.problems.mazes.configuration import EBTMazesConfig, MazeTransformerConfig
from ebt.problems.mazes.models import EBTForMazes, MazeTransformer
from ebt.problems.sudoku.configuration import EBTSudokuConfig, SudokuTransformerConfig
from ebt.problems.sudoku.models import EBTForSudoku, SudokuTransformer
from ebt.problems.video.configuration import EBTVideoConfig, VideoTransformerConfig
from ebt.problems.video.models import EBTForVideo, VideoTransformer

WORDS = 23
PAD = 0
TINY = {"layers": 2, "dim": 16, "heads": 2}
VIDEO: dict[str, Any] = {"frame_dim": 6, "context_length": 5, **TINY}
CONDITIONINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "candidate": {"conditioning": "candidate", "conditioned_steps": 3},
    "prefix": {"conditioning": "prefix", "conditioned_steps": 3},
    "modulation": {"conditioning": "modulation", "conditioned_steps": 2},
}
ANCHORS: dict[str, dict[str, Any]] = {
    "unanchored": {"anchor": "none", "head": "linear"},
    "hidden": {"anchor": "hidden", "head": "bilinear"},
}
FORMS = CONDITIONINGS | ANCHORS

Model = TypeVar("Model", bound=HubModel)


def randomise(model: Model, seed: int = 0) -> Model:
    """Double precision, evaluation mode, every matrix random."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                random = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(random * parameter.shape[-1] ** -0.5)
    return model


def make_ebt(vocab_size: int = WORDS, seed: int = 0, **config: Any) -> EBTForCausalLM:
    return randomise(EBTForCausalLM(EBTConfig(vocab_size, context_length=32, **{**TINY, "step_size": 3.0, **config})), seed)


def make_twin(vocab_size: int = WORDS, seed: int = 0) -> TransformerPPForCausalLM:
    return randomise(TransformerPPForCausalLM(TransformerPPConfig(vocab_size, context_length=32, **TINY)), seed)


def make_image_ebt(seed: int = 0, **config: Any) -> EBTForImages:
    """Of grey images of 8 x 8 pixels, in patches of 4 x 4."""
    small = {"num_channels": 1, "image_size": 8, "patch_size": 4, "step_size": 2.0}
    return randomise(EBTForImages(EBTImagesConfig(**{**TINY, **small, **config})), seed)


def make_dit(seed: int = 0, **config: Any) -> DiTForImages:
    return randomise(DiTForImages(DiTImagesConfig(num_channels=1, image_size=8, patch_size=4, **TINY, **config)), seed)


def make_all() -> list[HubModel]:
    """One model of each type."""
    return [
        make_ebt(conditioning="candidate", conditioned_steps=2, space="mirror"),
        make_twin(),
        randomise(EBTForSudoku(EBTSudokuConfig(board=4, **TINY))),
        randomise(SudokuTransformer(SudokuTransformerConfig(board=4, loop="prediction", **TINY))),
        randomise(EBTForMazes(EBTMazesConfig(**TINY))),
        randomise(MazeTransformer(MazeTransformerConfig(loop="hidden", **TINY))),
        make_image_ebt(),
        make_dit(),
        randomise(EBTForVideo(EBTVideoConfig(**VIDEO))),
        randomise(VideoTransformer(VideoTransformerConfig(**VIDEO))),
    ]


def make_ids(rows: int = 2, length: int = 7, seed: int = 0) -> Tensor:
    """Tokens (rows, length), none of them PAD."""
    return torch.randint(1, WORDS, (rows, length), generator=torch.Generator().manual_seed(seed))


def pad_left(prompts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Prompts of unequal length as one batch with its mask."""
    length = max(map(len, prompts))
    ids = torch.stack([torch.cat((torch.full((length - len(p),), PAD), p)) for p in prompts])
    mask = torch.stack([torch.arange(length) >= length - len(p) for p in prompts]).long()
    return ids, mask
