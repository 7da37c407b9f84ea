"""Models that predict the next frame, in the space of a frozen encoder: the continuous autoregressive EBT and its twin."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ebt.models.base import HubModel, ThinkingModel, leave_inference_mode
from ebt.nn import CausalTransformer, DecoderLandscape, EBTDecoder
from ebt.problems.video.configuration import EBTVideoConfig, VideoTransformerConfig
from ebt.thinking import Projected, RestartProjected, StepSize, Thought, think


class EBTForVideo(ThinkingModel):
    """Predicts each next frame's encoding (paper, section 4.2) by descending its energy, one energy per frame."""

    config_class = EBTVideoConfig

    def __init__(self, config: EBTVideoConfig) -> None:
        super().__init__(config)
        self.projection = _projection(config)
        self.candidates = None if config.tied_candidates else _linear(config)
        self.network = EBTDecoder(config.network(), config.energy_scale)
        self.step_size = StepSize(config.step_size, config.learn_step_size)
        self.post_init()

    def landscape(self, frames: Tensor, predictions: int | None = None) -> DecoderLandscape:
        """The energy of candidates for the frames that follow each of (B, S, E) observed ones, or the last ``predictions``."""
        frames = frames.to(self.network.head.projection.weight.dtype)
        return self.network.encode(frames if self.projection is None else self.projection(frames), predictions=predictions)

    def space(self) -> Projected:
        """Frames (B, S, E), seen through the candidates' projection."""
        config = self.config
        like, seen = self.network.head.projection.weight, self.projection if self.candidates is None else self.candidates
        weight, bias = (None, None) if seen is None else (seen.weight, seen.bias)
        kind = RestartProjected if config.space == "restart" else Projected
        return kind(2, (config.frame_dim,), like=like, weight=weight, bias=bias, noise_in=config.noise_in)

    @torch.no_grad()
    def think(
        self,
        frames: Tensor,
        steps: int | None = None,
        candidates: int | None = None,
        tolerance: float | None = None,
        noise: float | None = None,
        generator: torch.Generator | None = None,
        predictions: int | None = None,
    ) -> Thought:
        """Think about the frames that follow each of (B, S, E), or the last ``predictions`` of them; the record of all M x B
        candidates (see ``ebt.thinking.choose``)."""
        descent, candidates = self.descent(len(frames), steps, candidates, tolerance, noise)
        with leave_inference_mode():
            space, landscape = self.space(), self.landscape(frames, predictions)
            length = frames.shape[1] if predictions is None else predictions
            start = space.start((candidates * len(frames), length), self.config.start_std, generator)
            return think(landscape, space, start, self.alpha(), descent, generator)


class VideoTransformer(HubModel):
    """Transformer++ on frames: the same blocks, and a head that gives the next frame's encoding in one pass."""

    config_class = VideoTransformerConfig

    def __init__(self, config: VideoTransformerConfig) -> None:
        super().__init__(config)
        self.projection = _projection(config)
        self.network = CausalTransformer(config.network())
        self.head = nn.Linear(config.dim, config.frame_dim, bias=False)
        nn.init.normal_(self.head.weight, std=config.dim**-0.5)
        self.post_init()

    def forward(self, frames: Tensor) -> Tensor:
        """The frames (B, S, E) that follow each of (B, S, E) observed ones."""
        frames = frames.to(self.head.weight.dtype)
        prediction: Tensor = self.head(self.network(frames if self.projection is None else self.projection(frames)))
        return prediction


def _projection(config: EBTVideoConfig | VideoTransformerConfig) -> nn.Linear | None:
    return None if config.frame_dim == config.dim else _linear(config)


def _linear(config: EBTVideoConfig | VideoTransformerConfig) -> nn.Linear:
    layer = nn.Linear(config.frame_dim, config.dim)
    nn.init.normal_(layer.weight, std=config.frame_dim**-0.5)
    nn.init.zeros_(layer.bias)
    return layer
