"""Imports the model for ``transformers`` (``trust_remote_code=True``) from an installed package."""

try:
    from ebt.problems import EBTSudokuConfig
    from ebt.problems import EBTForSudoku
except ImportError as error:
    raise ImportError("This model needs the package ebt. Install it from a checkout of the repository: pip install '.[hub]'" + f" The import failed with: {error}") from error

__all__ = ["EBTSudokuConfig", "EBTForSudoku"]
