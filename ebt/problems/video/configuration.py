"""Configurations of video models."""

from __future__ import annotations

from typing import Any, ClassVar

from ebt.errors import InputError
from ebt.models.configuration import TWINS, NetworkFields, ThinkingFields
from ebt.models.thinking import VECTOR_SPACES


class _FrameFields(NetworkFields):
    """Fields of a model of frames that a frozen encoder turns into vectors of ``frame_dim`` numbers.

    ``encoding``: how frames were encoded, if known (``encoder``, ``size``, ``channels``, and ``seconds`` between frames, see
    ``ebt.problems.video.encoders``).
    """

    def __init__(
        self, frame_dim: int = 768, context_length: int = 16, encoding: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        self.frame_dim, self.context_length, self.encoding = frame_dim, context_length, encoding
        super().__init__(**kwargs)


class EBTVideoConfig(_FrameFields, ThinkingFields):
    """Continuous autoregressive EBT over frames.

    If ``frame_dim`` differs from ``dim``, a linear map projects frames to the network. Candidates have a separate map unless
    ``tied_candidates``. ``space``: restart or euclidean (``ebt.models.thinking.VECTOR_SPACES``). ``noise_in``:
    whether Langevin noise is added to the candidate (state) or only to its view (view, as in the published code).
    """

    model_type = "ebt_video"
    spaces: ClassVar = VECTOR_SPACES
    unused = ("input_gradient", "mean_from")

    def __init__(self, noise_in: str = "state", space: str = "restart", tied_candidates: bool = False, **kwargs: Any) -> None:
        if noise_in not in ("state", "view"):
            raise InputError(f"noise_in is {noise_in!r}: choose state or view")
        self.noise_in, self.tied_candidates = noise_in, tied_candidates
        super().__init__(space=space, **kwargs)


class VideoTransformerConfig(_FrameFields):
    """Transformer++ over frames, the feed-forward twin of ``EBTVideoConfig``."""

    model_type = "ebt_video_transformer"
    unused = TWINS

    def __init__(self, **kwargs: Any) -> None:  # without it transformers generates another one
        super().__init__(**kwargs)
