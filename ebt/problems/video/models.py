"""Models that predict the next frame in the space of a frozen encoder: the continuous autoregressive EBT and its twin."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ebt.models.base import HubModel, Prediction, ThinkingModel, batch
from ebt.models.thinking import Thinking
from ebt.nn import CausalTransformer, DecoderLandscape, EBTDecoder
from ebt.problems.video.configuration import EBTVideoConfig, VideoTransformerConfig
from ebt.thinking import Geometry, StepSize, Thought


class EBTForVideo(ThinkingModel):
    """Predicts the encoding of each next frame (paper, section 4.2) by descending its energy, one energy per frame."""

    config_class = EBTVideoConfig
    CONTEXT: ClassVar[tuple[str, ...]] = ("predictions",)

    def __init__(self, config: EBTVideoConfig) -> None:
        super().__init__(config)
        self.projection = _projection(config)
        self.candidates = None if config.tied_candidates else _linear(config)
        self.network = EBTDecoder(config.network(), config.energy_scale)
        self.step_size = StepSize(config.step_size, config.learn_step_size)
        self.post_init()

    def landscape(self, frames: Tensor, predictions: int | None = None) -> DecoderLandscape:
        """Return the energy of candidates for the next frame after each of (B, S, E), or the last ``predictions`` of them."""
        frames = frames.to(self.network.head.projection.weight.dtype)
        return self.network.encode(frames if self.projection is None else self.projection(frames), predictions=predictions)

    def prepared(self, context: Any) -> Tensor:
        """Convert frames (B, S, E) to a tensor."""
        return batch(context, "frames", None, self.config.frame_dim)

    def geometry(self) -> Geometry:
        """Frames (B, S, E), viewed through the projection of candidates. Each frame is a prediction."""
        config = self.config
        like, seen = self.network.head.projection.weight, self.projection if self.candidates is None else self.candidates
        weight, bias = (None, None) if seen is None else (seen.weight, seen.bias)
        shape = (config.frame_dim,)
        return self.config.make_geometry(2, shape, like=like, weight=weight, bias=bias, noise_in=config.noise_in)

    def parts(self, frames: Tensor, predictions: int | None = None) -> tuple[int, ...]:
        return len(frames), frames.shape[1] if predictions is None else predictions

    def positions(self, frames: Tensor, predictions: int | None = None) -> Tensor:
        return torch.arange(frames.shape[1])[-(predictions or frames.shape[1]) :].expand(len(frames), -1)

    def answer(self, frames: Tensor, thought: Thought, how: Thinking) -> Tensor:
        """Return the next frame (B, S, E) after each given one, or after the last ``predictions`` of them."""
        return thought.state

    def forward(self, frames: Tensor, **options: Any) -> Prediction:
        """Predict the next frame after each of (B, S, E). For the options, which include ``predictions``, see ``think``."""
        thought = self.think(frames, **options)
        return Prediction(thought.answer, thought.energy, thought.steps)


class VideoTransformer(HubModel):
    """Transformer++ on frames: the same blocks, and a head that predicts the next encoding in one pass."""

    config_class = VideoTransformerConfig

    def __init__(self, config: VideoTransformerConfig) -> None:
        super().__init__(config)
        self.projection = _projection(config)
        self.network = CausalTransformer(config.network())
        self.head = nn.Linear(config.dim, config.frame_dim, bias=False)
        nn.init.normal_(self.head.weight, std=config.dim**-0.5)
        self.post_init()

    def forward(self, frames: Tensor) -> Tensor:
        """Return the next frame (B, S, E) after each of (B, S, E)."""
        frames = frames.to(self.head.weight.dtype)
        return self.head(self.network(frames if self.projection is None else self.projection(frames)))

    predict = forward


def _projection(config: EBTVideoConfig | VideoTransformerConfig) -> nn.Linear | None:
    return None if config.frame_dim == config.dim else _linear(config)


def _linear(config: EBTVideoConfig | VideoTransformerConfig) -> nn.Linear:
    layer = nn.Linear(config.frame_dim, config.dim)
    nn.init.normal_(layer.weight, std=config.frame_dim**-0.5)
    nn.init.zeros_(layer.bias)
    return layer
