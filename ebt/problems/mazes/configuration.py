"""Configurations of models of mazes."""

from __future__ import annotations

from typing import Any

from ebt.models.cells import CellsConfig, CellsTwinConfig


class EBTMazesConfig(CellsConfig):
    """Bidirectional EBT over the squares of mazes of any size. Its attention knows the neighbours of a square, and no other
    position.

    Args:
        space: See ``ThinkingFields``.
        latent: Whether each square carries a latent vector through the descent (``ebt.nn.encoder.LatentLandscape``). Needs
            space restart and head bilinear.
        **kwargs: See ``ThinkingFields``.
    """

    model_type = "ebt_mazes"

    def __init__(self, space: str = "restart", latent: bool = False, **kwargs: Any) -> None:
        super().__init__(space, latent, **kwargs)


class MazeTransformerConfig(CellsTwinConfig):
    """Baselines of ``EBTMazesConfig`` without an energy. For ``loop`` and ``inner`` see ``CellsTwinConfig``."""

    model_type = "ebt_mazes_transformer"

    def __init__(self, loop: str = "none", inner: int = 6, **kwargs: Any) -> None:
        super().__init__(loop, inner, **kwargs)
