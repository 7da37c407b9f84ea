"""Prediction of the next frame in a frozen encoder's space, by thinking, or with the feed-forward twin."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from ebt.errors import InputError
from ebt.models.base import HubModel
from ebt.problems.pretrained import start_from
from ebt.problems.video.configuration import EBTVideoConfig, VideoTransformerConfig
from ebt.problems.video.metrics import repeat_loss
from ebt.problems.video.models import EBTForVideo, VideoTransformer
from ebt.thinking import Euclidean, Geometry, Recipe
from ebt.training.model_task import ModelTask, Network
from ebt.training.task import Batch, Sums

RECIPE = Recipe(min_steps=1, max_steps=2, start_std=0.3)


@dataclass(frozen=True)
class VideoNetwork(Network):
    """A model of frames: ``ebt``, with a quadratic head and anchor hidden by default, or ``transformer_pp``, its twin."""

    kind: Literal["ebt", "transformer_pp"] = "ebt"
    tied_candidates: bool = False
    """Whether an EBT projects candidates with the map of the observed frames instead of a separate one."""
    spaces: ClassVar[Collection[str]] = EBTVideoConfig.spaces
    unused: ClassVar = ("input_gradient",)
    recipe: ClassVar = RECIPE
    loads_pretrained: ClassVar = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tied_candidates and self.kind != "ebt":
            raise InputError(f"network.tied_candidates is for kind ebt, but kind is {self.kind}: leave it out.")

    def build(self, frame_dim: int, context_length: int, encoding: dict[str, Any], recipe: Recipe, steps: int) -> HubModel:
        """Build the model, with fresh weights unless it is pretrained.

        Raises:
            InputError: If a pretrained model does not fit, see ``ebt.problems.pretrained.start_from``.
        """
        shape: dict[str, Any] = {"frame_dim": frame_dim, "context_length": context_length, "encoding": encoding}
        if self.pretrained is not None:
            kinds = {"ebt": EBTForVideo, "transformer_pp": VideoTransformer}
            return start_from(self, recipe, kinds, lambda fresh: fresh.build(**shape, recipe=recipe, steps=steps), **shape)
        if self.kind == "transformer_pp":
            return VideoTransformer(VideoTransformerConfig(**shape, **self.sizes()))
        fields = {"head": "quadratic", "anchor": "hidden", **self.thinking(recipe, steps)}
        fields["tied_candidates"] = self.tied_candidates
        return EBTForVideo(EBTVideoConfig(**shape, **self.sizes(), **fields))


NETWORK = VideoNetwork()


class VideoTask(ModelTask):
    """Predict each next frame. The loss is smooth L1 (beta 1), mean over the numbers of an encoded frame (paper, section 4.2).

    Batches have ``frames`` (B, S + 1, E), of which the last S are predicted. E, the context length and the encoding are those
    of the trainer's data module (``frame_dim``, ``context_length``, ``encoding``).

    Args:
        network: The model.
        recipe, validation_steps, settings: See ``ThinkingTask``.

    Also logged: repeat, the loss of repeating the previous frame.
    """

    prediction_dims = 2
    warm_starts = True

    def __init__(
        self,
        network: VideoNetwork = NETWORK,
        recipe: Recipe = RECIPE,
        validation_steps: Sequence[int] = (1, 2, 4, 8),
        **settings: Any,
    ) -> None:
        super().__init__(network=network, recipe=recipe, validation_steps=validation_steps, **settings)

    def build(self) -> HubModel:
        frame_dim, context_length, encoding = self.of_data("frame_dim", "context_length", "encoding")
        return self.network.build(frame_dim, context_length, encoding, self.recipe, self.steps)

    def parts(self, batch: Batch) -> tuple[int, ...]:
        return tuple(self.target(batch).shape[:2])

    def geometry(self) -> Geometry:
        """Frames, for both kinds of model."""
        return super().geometry() if self.thinks else Euclidean(2, (self.model.config.frame_dim,))

    def context(self, batch: Batch) -> Tensor:
        return batch["frames"][:, :-1]

    def target(self, batch: Batch) -> Tensor:
        return batch["frames"][:, 1:]

    def passes(self, batch: Batch, iterations: int, burn_in: int = 0) -> list[Tensor]:
        return [self.model(self.context(batch))]

    def measure(self, batch: Batch, state: Tensor) -> Sums:
        sums = super().measure(batch, state)
        return {**sums, "repeat": (repeat_loss(batch["frames"]).sum(), sums["loss"][1])}

    def summarise(self, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        """``repeat`` is the same after any number of steps."""
        found = super().summarise(metrics)
        return {name: value for name, value in found.items() if not name.startswith("repeat_at_")}
