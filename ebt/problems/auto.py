"""Makes the models known to ``transformers``: ``AutoConfig``, ``AutoModelForCausalLM``, ``AutoModel``."""

from __future__ import annotations

import transformers

from ebt.models.base import HubModel
from ebt.problems.images.models import DiTForImages, EBTForImages
from ebt.problems.language.ebt import EBTForCausalLM
from ebt.problems.language.transformer_pp import TransformerPPForCausalLM
from ebt.problems.sudoku.models import EBTForSudoku, SudokuTransformer
from ebt.problems.video.models import EBTForVideo, VideoTransformer

MODELS: dict[str, type[HubModel]] = {
    model.config_class.model_type: model
    for model in (
        EBTForCausalLM,
        TransformerPPForCausalLM,
        EBTForSudoku,
        SudokuTransformer,
        EBTForImages,
        DiTForImages,
        EBTForVideo,
        VideoTransformer,
    )
}
"""All models by the ``model_type`` of their configuration."""


def register() -> None:
    """Register all models; done when this module is imported."""
    for model_type, model in MODELS.items():
        transformers.AutoConfig.register(model_type, model.config_class, exist_ok=True)
        getattr(transformers, model.auto_class).register(model.config_class, model, exist_ok=True)


register()
