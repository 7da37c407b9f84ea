"""Predicted frames: loss against thinking steps and candidates, whether energy knows the errors, rollouts.

Letters: B clips, S observed frames, F frames ahead, E numbers of an encoded frame, M candidates, T steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ebt.errors import InputError
from ebt.evaluation.descents import check_counts, descend, evaluations, thinks
from ebt.evaluation.results import Curve, Progress, VideoPoint
from ebt.evaluation.statistics import spearman
from ebt.thinking import Rule, alarms, choose


def frame_loss(found: Tensor, frames: Tensor) -> Tensor:
    """Smooth L1 (beta 1) of frames (..., E), mean over their numbers."""
    return F.smooth_l1_loss(found, frames, reduction="none").mean(-1)


def repeat_loss(frames: Tensor) -> Tensor:
    """Loss (B, S) of predicting each next frame of (B, S + 1, E) by repeating the last one."""
    return frame_loss(frames[:, :-1], frames[:, 1:])


@torch.no_grad()
def video_curve(
    model: Any,
    frames: Tensor,
    steps: Sequence[int],
    candidates: Sequence[int] = (1,),
    rule: Rule = "lowest",
    tolerance: float | None = None,
    seed: int = 0,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Curve[VideoPoint]:
    """Quality of next-frame predictions for every number of steps and candidates, by one descent a batch.

    Args:
        model: an ``EBTForVideo``, or a ``VideoTransformer``, which gives a single point.
        frames: encoded clips (B, S + 1, E), of which the last S frames are predicted.
        steps, candidates, rule: which numbers to measure, and how winners are chosen, frame by frame.
        tolerance: a frame stops when it moves by less (root mean square).
        seed: of the random starts.
        batch_size, progress: clips at once, and what is called with the clips done.

    Raises:
        InputError: numbers below 1, clips of fewer than two frames, or frames of another width than the model's.
    """
    steps, candidates = check_counts("steps", steps), check_counts("candidates", candidates)
    check_frames(model, frames, 2)
    sums, generator = _Sums(), torch.Generator(model.device).manual_seed(seed)
    for rows in torch.arange(len(frames)).split(batch_size):
        clip = frames[rows].to(model.device)
        if thinks(model):
            _think_batch(model, clip, steps, candidates, rule, tolerance, generator, sums)
        else:
            sums.add((1, 1), frame_loss(model(clip[:, :-1]), clip[:, 1:]))
        if progress:
            progress(int(rows[-1]) + 1, len(frames))
    points, scored = sums.points(thinks(model)), len(frames) * (frames.shape[1] - 1)
    if not thinks(model):
        return Curve("video", "feed-forward", points, len(frames), scored, seed=seed)
    ends = sums.start_energy / scored, tuple(sums.alarms)
    return Curve("video", "ebt", points, len(frames), scored, rule, tolerance, seed, *ends)


class _Sums:
    """Losses and energies (B, S) by the numbers of steps and candidates."""

    def __init__(self) -> None:
        self.losses: dict[tuple[int, int], list[Tensor]] = {}
        self.energies: dict[tuple[int, int], list[Tensor]] = {}
        self.spent: dict[tuple[int, int], float] = {}
        self.start_energy = 0.0
        self.alarms: list[str] = []

    def add(self, key: tuple[int, int], losses: Tensor, energies: Tensor | None = None) -> None:
        self.losses.setdefault(key, []).append(losses.double().cpu())
        if energies is not None:
            self.energies.setdefault(key, []).append(energies.double().cpu())

    def points(self, energies: bool) -> list[VideoPoint]:
        return [self._point(*key, torch.cat(losses), energies) for key, losses in self.losses.items()]

    def _point(self, steps: int, candidates: int, losses: Tensor, energies: bool) -> VideoPoint:
        each = losses.mean(1)
        error = each.std().item() / math.sqrt(len(each)) if len(each) > 1 else None
        if not energies:
            return VideoPoint(1, 1, None, None, 1.0, 0.0, losses.mean().item(), error, None, each.tolist())
        energy = torch.cat(self.energies[steps, candidates])
        known, mean = spearman(energy.numpy(), losses.numpy()), energy.mean().item()
        spent = evaluations(self.spent[steps, candidates] / len(each), candidates)
        return VideoPoint(steps, candidates, mean, mean, *spent, losses.mean().item(), error, known, each.tolist())


def _think_batch(
    model: Any,
    clip: Tensor,
    steps: Sequence[int],
    candidates: Sequence[int],
    rule: Rule,
    tolerance: float | None,
    generator: torch.Generator,
    sums: _Sums,
) -> None:
    space, most, rows, context = model.space(), max(candidates), len(clip), clip[:, :-1]
    start = space.start((most * rows, context.shape[1]), model.config.start_std, generator)
    conditioned, noise = model.config.conditioning != "none", model.noise(rows, most).unsqueeze(1).expand(-1, context.shape[1])
    record = descend(
        model.landscape(context),
        space,
        start,
        model.alpha(),
        steps,
        most,
        tolerance,
        conditioned=conditioned,
        noise=noise,
        generator=generator,
    )
    sums.alarms = sums.alarms or alarms(record.thought.rows(torch.arange(rows, device=clip.device)), space)
    sums.start_energy += record.thought.energies[0, :rows].double().sum().item()
    for step in steps:
        for count in candidates:
            won = record.at(step, count, rule)
            sums.add((step, count), frame_loss(won.state, clip[:, 1:]), won.energies[-1])
            sums.spent[step, count] = sums.spent.get((step, count), 0.0) + rows * record.taken(step, count)


@dataclass(frozen=True)
class Rollout:
    """Frames that a model predicts from its own predictions."""

    frames: Tensor
    """(B, F, E)."""
    energies: Tensor | None
    """Of each frame before the first and after each step, (T + 1, B, F); None of a model without an energy."""


@torch.no_grad()
def rollout(
    model: Any,
    context: Tensor,
    ahead: int,
    steps: int | None = None,
    candidates: int | None = None,
    rule: Rule = "lowest",
    seed: int = 0,
    progress: Progress | None = None,
) -> Rollout:
    """Predict ``ahead`` frames after (B, S, E), each from the last ``context_length`` frames, given or predicted.

    Args:
        model: an ``EBTForVideo`` or ``VideoTransformer``.
        context: the frames that are given.
        ahead: how many to predict.
        steps, candidates: how an EBT thinks; as the model's configuration says by default.
        rule, seed: which candidate wins, and of the random starts.
        progress: called after each frame.

    Raises:
        InputError: no frame given or asked for, or frames of another width than the model's.
    """
    check_frames(model, context, 1)
    if ahead < 1:
        raise InputError(f"{ahead} frames ahead: give at least 1.")
    frames, energies = context.to(model.device, model.dtype), list[Tensor]()
    generator = torch.Generator(model.device).manual_seed(seed)
    for done in range(ahead):
        seen = frames[:, -model.config.context_length :]
        if thinks(model):
            thought = model.think(seen, steps, candidates, generator=generator, predictions=1)
            won = choose(thought, model.space(), len(thought.start) // len(seen), rule)
            energies.append(won.energies[..., 0])
            frames = torch.cat((frames, won.state.to(frames)), 1)
        else:
            frames = torch.cat((frames, model(seen)[:, -1:].to(frames)), 1)
        if progress:
            progress(done + 1, ahead)
    return Rollout(frames[:, context.shape[1] :], torch.stack(energies, -1) if energies else None)


@dataclass(frozen=True)
class FrameEnergies:
    """Energies and losses of the frames of clips while a model thinks about each of them, given the true ones before it (paper,
    figure 11)."""

    energies: Tensor
    """Before the first and after each step, (T + 1, B, S)."""
    losses: Tensor
    """After each step, (T, B, S)."""
    moves: Tensor
    """How far each step moved the predicted frame, root mean square, (T, B, S)."""

    @property
    def spearman(self) -> float:
        """Rank correlation of the last energies with the last losses, over all frames."""
        return spearman(self.energies[-1].numpy(), self.losses[-1].numpy())

    @property
    def spearman_within_clips(self) -> float:
        """The same in each clip alone, mean over the clips: energies of clips of different things have different zeros."""
        pairs = zip(self.energies[-1].numpy(), self.losses[-1].numpy(), strict=True)
        return float(np.mean([spearman(*pair) for pair in pairs]))

    @property
    def spearman_of_moves(self) -> float:
        """Rank correlation of how far the last step still moved with the last losses, over all frames."""
        return spearman(self.moves[-1].numpy(), self.losses[-1].numpy())


@torch.no_grad()
def frame_energies(model: Any, frames: Tensor, steps: int | None = None, seed: int = 0) -> FrameEnergies:
    """Energies, losses and moves of predicting each next frame of (B, S + 1, E) with one candidate, from the true frames before
    it, at most as many as the model's context.

    Raises:
        InputError: frames of another width than the model's, or fewer than two of them.
    """
    check_frames(model, frames, 2)
    clip, longest = frames.to(model.device), model.config.context_length
    generator = torch.Generator(model.device).manual_seed(seed)
    first = model.think(clip[:, : min(longest, clip.shape[1] - 1)], steps, 1, generator=generator)
    energies, states = [first.energies], [torch.stack((first.start, *first.states))]
    for end in range(longest + 1, clip.shape[1]):
        thought = model.think(clip[:, end - longest : end], steps, 1, generator=generator, predictions=1)
        energies.append(thought.energies)
        states.append(torch.stack((thought.start, *thought.states)))
    found, space = torch.cat(states, 2), model.space()
    losses = frame_loss(found[1:], clip[:, 1:].expand_as(found[1:]))
    moves = torch.stack([space.change(before, after) for before, after in pairwise(found)])
    return FrameEnergies(*(part.double().cpu() for part in (torch.cat(energies, 2), losses, moves)))


def check_frames(model: Any, frames: Tensor, least: int) -> None:
    """Whether a model can be given these frames.

    Raises:
        InputError: frames of another width than the model's, or fewer than ``least`` of them.
    """
    if not len(frames) or frames.shape[1] < least or frames.shape[2] != model.config.frame_dim:
        raise InputError(
            f"frames {tuple(frames.shape)}: give one or more clips of at least {least} frames of {model.config.frame_dim} "
            "numbers, those of the encoder that the model was trained with."
        )
