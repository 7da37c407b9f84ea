"""Finds the model classes for ``transformers`` (``trust_remote_code=True``). Saved beside the weights of every model."""

try:
    from ebt.hub import (
        DiTForImages,
        DiTImagesConfig,
        EBTConfig,
        EBTForCausalLM,
        EBTForImages,
        EBTForSudoku,
        EBTForVideo,
        EBTImagesConfig,
        EBTSudokuConfig,
        EBTVideoConfig,
        SudokuTransformer,
        SudokuTransformerConfig,
        TransformerPPConfig,
        TransformerPPForCausalLM,
        VideoTransformer,
        VideoTransformerConfig,
    )
except ImportError as error:
    raise ImportError(
        f"This model needs the package energy-based-transformers: pip install energy-based-transformers "
        f"(the package named just 'ebt' is another one). The import failed with: {error}"
    ) from error

__all__ = [
    "DiTForImages",
    "DiTImagesConfig",
    "EBTConfig",
    "EBTForCausalLM",
    "EBTForImages",
    "EBTForSudoku",
    "EBTForVideo",
    "EBTImagesConfig",
    "EBTSudokuConfig",
    "EBTVideoConfig",
    "SudokuTransformer",
    "SudokuTransformerConfig",
    "TransformerPPConfig",
    "TransformerPPForCausalLM",
    "VideoTransformer",
    "VideoTransformerConfig",
]
