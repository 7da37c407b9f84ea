"""Video metrics: loss against thinking steps and candidates, whether energy indicates the errors, rollouts.

Letters: B clips, S observed frames, F predicted frames, E numbers per encoded frame, M candidates, T steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ebt.errors import InputError
from ebt.evaluation.measure import Scorer, Tally, measure, thinks
from ebt.evaluation.results import Curve, Measure, Point, Progress
from ebt.evaluation.statistics import spearman
from ebt.models.exploration import Explored
from ebt.thinking import Thought

MEASURE = Measure("loss", "smooth L1 per frame", "frame")


@dataclass(frozen=True)
class VideoPoint(Point):
    """Quality of predicted frames. Means are over all frames of all clips."""

    loss: float
    """Smooth L1 loss (beta 1), mean over the numbers of an encoded frame."""
    loss_error: float | None
    """Standard error of ``loss`` over clips. ``None`` for a single clip."""
    spearman: float | None
    """Rank correlation of the energies of frames with their losses. ``None`` for a model without an energy."""
    losses: list[float]
    """Loss of every clip, for paired comparisons."""


def frame_loss(found: Tensor, frames: Tensor) -> Tensor:
    """Smooth L1 loss (beta 1) of frames (..., E), mean over their numbers."""
    return F.smooth_l1_loss(found, frames, reduction="none").mean(-1)


def repeat_loss(frames: Tensor) -> Tensor:
    """Loss (B, S) of predicting each next frame of (B, S + 1, E) by repeating the previous one."""
    return frame_loss(frames[:, :-1], frames[:, 1:])


def video_curve(
    model: Any, frames: Tensor, steps: Sequence[int], candidates: Sequence[int] = (1,), batch_size: int = 32, **options: Any
) -> Curve[VideoPoint]:
    """Measure next-frame predictions for every number of steps and candidates, with one descent per batch.

    Args:
        model: An ``EBTForVideo``, or a ``VideoTransformer``, which gives a single point.
        frames: Encoded clips (B, S + 1, E). The last S frames are predicted.
        steps: Numbers of steps to measure.
        candidates: Numbers of candidates to measure. Winners are chosen per frame.
        batch_size: Number of clips at once.
        **options: See ``ebt.evaluation.measure.measure``.

    Raises:
        InputError: If a number is below 1, clips have fewer than two frames, or the width of frames is not the model's.
    """
    check_frames(model, frames, 2)
    return measure(model, _Frames(), frames.split(batch_size), steps, candidates, total=len(frames), **options)


class _Frames(Scorer[VideoPoint]):
    task = "video"
    measure = MEASURE

    def context(self, batch: Tensor, device: torch.device) -> Tensor:
        return batch[:, :-1].to(device)

    def rows(self, batch: Tensor) -> int:
        return len(batch)

    def scored(self, batch: Tensor) -> int:
        return batch.shape[0] * (batch.shape[1] - 1)

    def score(self, batch: Tensor, won: Thought, found: Explored, steps: int, candidates: int) -> dict[str, Tensor]:
        return _worth(won.state, batch)

    def passes(self, model: Any, batch: Tensor, steps: Sequence[int]) -> Iterable[tuple[int, float, dict[str, Tensor]]]:
        yield 1, 1.0, _worth(model(self.context(batch, model.device)), batch)

    def point(self, common: dict[str, Any], tally: Tally) -> VideoPoint:
        clips = tally["clip"]
        error = clips.std().item() / math.sqrt(len(clips)) if len(clips) > 1 else None
        known = spearman(tally["energy"].double().numpy(), tally["loss"].numpy()) if "energy" in tally else None
        return VideoPoint(**common, loss=tally.mean("loss"), loss_error=error, spearman=known, losses=clips.tolist())


def _worth(found: Tensor, batch: Tensor) -> dict[str, Tensor]:
    """Losses of frames and their means over clips."""
    losses = frame_loss(found, batch[:, 1:].to(found.device)).double()
    return {"loss": losses, "clip": losses.mean(1)}


@dataclass(frozen=True)
class Rollout:
    """Frames that a model predicts from its own predictions."""

    frames: Tensor
    """(B, F, E)."""
    energies: Tensor | None
    """Energies of each frame before the first and after each step, (T + 1, B, F). ``None`` for a model without an energy."""


@torch.no_grad()
def rollout(model: Any, context: Tensor, ahead: int, progress: Progress | None = None, **options: Any) -> Rollout:
    """Predict ``ahead`` frames after (B, S, E), each from the last ``context_length`` frames, given or predicted.

    Args:
        model: An ``EBTForVideo`` or ``VideoTransformer``.
        context: The given frames.
        ahead: Number of frames to predict.
        progress: Function that is called after each frame.
        **options: Options of an EBT, see ``think``.

    Raises:
        InputError: If no frames are given or requested, or the width of frames is not the model's.
    """
    check_frames(model, context, 1)
    if ahead < 1:
        raise InputError(f"{ahead} frames ahead: give at least 1.")
    frames, energies = context.to(model.device, model.dtype), list[Tensor]()
    for done in range(ahead):
        seen = frames[:, -model.config.context_length :]
        if thinks(model):
            won = model.think(seen, predictions=1, **options)
            energies.append(won.energies[..., 0])
            frames = torch.cat((frames, won.state.to(frames)), 1)
        else:
            frames = torch.cat((frames, model(seen)[:, -1:].to(frames)), 1)
        if progress:
            progress(done + 1, ahead)
    return Rollout(frames[:, context.shape[1] :], torch.stack(energies, -1) if energies else None)


@dataclass(frozen=True)
class FrameEnergies:
    """Energies and losses of the frames of clips while a model thinks about each of them, given the true frames before it
    (paper, figure 11)."""

    energies: Tensor
    """Energies before the first and after each step, (T + 1, B, S)."""
    losses: Tensor
    """Losses after each step, (T, B, S)."""
    moves: Tensor
    """Root mean square change of the predicted frame in each step, (T, B, S)."""
    repeats: Tensor
    """Energies of repeating the previous frame, (B, S), on the landscape of the last step."""

    @property
    def spearman(self) -> float:
        """Rank correlation of the final energies with the final losses, over all frames."""
        return spearman(self.energies[-1].numpy(), self.losses[-1].numpy())

    @property
    def spearman_within_clips(self) -> float:
        """The same within each clip, mean over clips. Energies of clips with different content have different offsets."""
        pairs = zip(self.energies[-1].numpy(), self.losses[-1].numpy(), strict=True)
        return float(np.mean([spearman(*pair) for pair in pairs]))

    @property
    def spearman_over_repeating(self) -> float:
        """The same over all frames, of the energies less those of repeating: what offsets the energies of a clip cancels."""
        return spearman((self.energies[-1] - self.repeats).numpy(), self.losses[-1].numpy())

    @property
    def spearman_of_moves(self) -> float:
        """Rank correlation of the change in the last step with the final losses, over all frames."""
        return spearman(self.moves[-1].numpy(), self.losses[-1].numpy())


@torch.no_grad()
def frame_energies(model: Any, frames: Tensor, **options: Any) -> FrameEnergies:
    """Predict each next frame of (B, S + 1, E) with one candidate, from the true frames before it within the model's context.

    For the options see ``think``.

    Raises:
        InputError: If the width of frames is not the model's, or there are fewer than two frames.
    """
    check_frames(model, frames, 2)
    clip, longest = frames.to(model.device), model.config.context_length
    seen: list[tuple[int, int, int | None]] = [(0, min(longest, clip.shape[1] - 1), None)]
    seen += [(end - longest, end, 1) for end in range(longest + 1, clip.shape[1])]
    options["candidates"] = 1
    thoughts = [model.think(clip[:, first:end], predictions=count, **options) for first, end, count in seen]
    energies, geometry = torch.cat([thought.energies for thought in thoughts], 2), model.geometry()
    found = torch.cat([torch.stack((thought.start, *thought.states)) for thought in thoughts], 2)
    losses = frame_loss(found[1:], clip[:, 1:].expand_as(found[1:]))
    moves = torch.stack([geometry.change(before, after) for before, after in pairwise(found)])
    views = geometry.view(clip[:, :-1])
    repeats = [
        model.landscape(clip[:, first:end], count)(views[:, end - (count or end) : end], len(moves) - 1)
        for first, end, count in seen
    ]
    return FrameEnergies(*(part.double().cpu() for part in (energies, losses, moves, torch.cat(repeats, 1))))


def check_frames(model: Any, frames: Tensor, least: int) -> None:
    """Raise ``InputError`` if the width of frames is not the model's, or there are fewer than ``least`` frames."""
    if not len(frames) or frames.shape[1] < least or frames.shape[2] != model.config.frame_dim:
        wanted = f"at least {least} frames of {model.config.frame_dim} numbers, those of the encoder that it was trained with"
        raise InputError(f"frames {tuple(frames.shape)}: give one or more clips of {wanted}.")
