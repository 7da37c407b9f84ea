"""Batches of encoded frames: moving digits, or folders of videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebt.errors import InputError
from ebt.problems.images.data import SplitData
from ebt.problems.video.clips import Clips, open_videos
from ebt.problems.video.encoders import Encoded, Encoder, FeatureCache, encode_clips, encode_frames, open_encoder
from ebt.problems.video.moving_digits import DIGITS, SIDE, MovingDigits
from ebt.training.sampling import EpochSampler, ResumableLoader, ResumableSampler, VariedDataset, drawn


class Windows(VariedDataset):
    """Windows of encoded videos: dict(``frames`` (length, E)).

    A video has ``each`` windows per epoch, or fewer if it has fewer distinct ones. Their positions depend on (seed, epoch,
    index). Without a seed they are fixed and evenly spread.
    """

    def __init__(self, videos: Encoded, length: int, each: int, seed: int | None = None) -> None:
        super().__init__(seed or 0)
        self.videos, self.length, self.fixed = videos, length, seed is None
        self.counts = [min(each, len(features) - length + 1) for features in videos.features]
        self.ends = np.cumsum(self.counts)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        video = int(np.searchsorted(self.ends, index, side="right"))
        features, count = self.videos.features[video], self.counts[video]
        room = len(features) - self.length
        if self.fixed:
            start = round(room * (index - int(self.ends[video]) + count) / max(1, count - 1))
        else:
            start = int(np.random.default_rng((self.seed, self.epoch, index)).integers(room + 1))
        return {"frames": torch.from_numpy(np.array(features[start : start + self.length]))}


class DigitWindows(VariedDataset):
    """Encoded moving digits: dict(``frames`` (length, E)). ``count`` clips, which differ from epoch to epoch."""

    def __init__(self, digits: MovingDigits, encoder: Encoder, length: int, count: int) -> None:
        super().__init__()
        self.digits, self.encoder, self.length, self.count = digits, encoder, length, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        clip = self.digits.clip(index, self.length, self.epoch)
        return {"frames": torch.from_numpy(encode_frames(clip.frames, self.encoder))}


class VideoDataModule(SplitData):
    """Batches of encoded frames: dict(``frames`` (B, context_length + 1, E)), the observed ones and one to predict.

    The splits share no video, and no image of a digit. The windows depend on the seed and the epoch.

    Moving digits are generated anew in each epoch. Encoded videos are computed once and kept in ``cache``. So are moving digits
    if the encoder is a network, which then uses those of the first epoch throughout.

    Args:
        source: ``digits``, a video or a folder of videos (see ``ebt.problems.video.clips``).
        validation_source, test_source: Separate videos.
        encoder: Encoder of the frames, see ``ebt.problems.video.encoders``.
        size: Height and width of the frames, in pixels.
        channels: 3, or 1 for grey frames.
        context_length: Number of observed frames.
        seconds: Time between two frames of a video.
        windows, evaluation_windows: Windows per video and epoch, and per video in evaluation.
        clips, evaluation_clips: Clips of moving digits per epoch, and in evaluation.
        digits, speeds, arrival: Settings of moving digits, see ``MovingDigits``.
        shifted: Settings that differ in the harder test set of moving digits.
        train_examples: Number of training windows, or clips of moving digits, drawn by the seed and the same in every epoch.
            By default all, which differ from epoch to epoch.
        cache: Folder of the encodings. By default it is in the user's cache folder.
        settings: See ``SplitData``.
    """

    what = "video"

    def __init__(
        self,
        source: str = DIGITS,
        validation_source: str | None = None,
        test_source: str | None = None,
        encoder: str = "pixels",
        size: int = 14,
        channels: int = 1,
        context_length: int = 16,
        seconds: float = 0.25,
        windows: int = 16,
        evaluation_windows: int = 4,
        clips: int = 4096,
        evaluation_clips: int = 256,
        digits: int = 1,
        speeds: Sequence[int] = (1, 2),
        arrival: float = 0.0,
        shifted: Mapping[str, Any] | None = None,
        cache: str | None = None,
        train_examples: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(source, validation_source, test_source, **settings)
        if min(context_length, windows, evaluation_windows, clips, evaluation_clips) < 1 or not seconds > 0:
            raise InputError("context_length and all numbers of windows and clips must be at least 1, and seconds above 0.")
        if source == DIGITS and (channels != 1 or validation_source or test_source):
            raise InputError("moving digits are grey and have their own held-out sets: set channels to 1, and no sources.")
        if train_examples is not None and train_examples < 1:
            raise InputError(f"train_examples={train_examples}: give at least 1.")
        self.encoder_name, self.size, self.channels, self.seconds = encoder, size, channels, seconds
        self.encoding = {"encoder": encoder, "size": size, "channels": channels, "seconds": seconds}
        """How frames are encoded, as in the configuration of models."""
        self.context_length, self.length, self.cache = context_length, context_length + 1, FeatureCache(cache)
        self.digits: dict[str, MovingDigits] = self._digits(digits, tuple(speeds), arrival, shifted) if source == DIGITS else {}
        self.counts = {name: clips if name == "train" else evaluation_clips for name in self.digits}
        self.test_names = [DIGITS, "shifted"] if self.digits else []

    def _digits(
        self, digits: int, speeds: tuple[int, ...], arrival: float, shifted: Mapping[str, Any] | None
    ) -> dict[str, MovingDigits]:
        """Return the moving digits of each set. Those of evaluation do not depend on the seed."""
        test = MovingDigits("test", self.size, digits, speeds, arrival)
        other = {"digits": digits + 1, "speeds": (min(max(speeds) + 1, self.size - SIDE),), **(shifted or {})}
        if extra := sorted(other.keys() - {"size", "digits", "speeds", "arrival"}):
            raise InputError(f"shifted has {', '.join(extra)}: give only digits, speeds, arrival and size.")
        if other.get("size", self.size) != self.size:
            raise InputError("shifted has another size: give the size of the training frames.")
        held_out = {"validation": replace(test, split="validation"), DIGITS: test}
        shifted_digits = replace(test, **{**other, "speeds": tuple(other["speeds"])})
        return {"train": replace(test, split="train", seed=self.seed), **held_out, "shifted": shifted_digits}

    @cached_property
    def encoder(self) -> Encoder:
        """The frozen encoder."""
        return open_encoder(self.encoder_name, self.size, self.channels)

    @property
    def frame_dim(self) -> int:
        """Number of values in an encoded frame, E."""
        return self.encoder.dim

    def prepare(self) -> None:
        """Find and encode all videos. Later calls return at once."""
        if self.sets:
            return
        if self.digits and not self.encoder.learned:
            self.sets = dict(self.digits)
            return
        if self.digits:
            clips = {name: digit_clips(digits, self.counts[name], self.length) for name, digits in self.digits.items()}
        else:
            named = {split: source for split, source in self.sources.items() if source is not None}
            clips = {split: open_videos(name, self.size, self.channels, self.seconds) for split, name in named.items()}
            check_apart(clips)
        how = self.encoder, self.cache, self.length, self.hparams["on_error"]
        found = {name: encode_clips(part, *how) for name, part in clips.items()}
        self.skipped = {name: reason for videos in found.values() for name, reason in videos.skipped.items()}
        self.sets = found if self.digits else self.split(found)

    def statistics(self) -> dict[str, Any]:
        """Describe the data: source, encoder, size, numbers of videos and frames, and skipped videos."""
        self.prepare()
        told = {"source": self.sources["train"], **self.encoding, "frame_dim": self.frame_dim}
        if self.digits:
            return {**told, "clips": self.counts, "sets": {name: asdict(digits) for name, digits in self.digits.items()}}
        frames = {name: sum(map(len, videos.features)) for name, videos in self.sets.items()}
        return {**told, "videos": {name: len(v) for name, v in self.sets.items()}, "frames": frames, "skipped": self.skipped}

    def train_dataloader(self) -> ResumableLoader:
        """Batches in the order of (seed, epoch). An incomplete last batch is dropped, unless it is the only one."""
        count = self.hparams["train_examples"]
        rows = drawn(self.examples("train"), count, self.seed)
        return self.training_loader(rows, EpochSampler if count is None else ResumableSampler)

    def examples(self, name: str) -> Windows | DigitWindows:
        self.prepare()
        if isinstance(digits := self.sets[name], MovingDigits):
            return DigitWindows(digits, self.encoder, self.length, self.counts[name])
        each = 1 if self.digits else self.hparams["windows" if name == "train" else "evaluation_windows"]
        return Windows(self.sets[name], self.length, each, self.seed if name == "train" else None)


def check_apart(clips: Mapping[str, Clips]) -> None:
    """Raise ``InputError`` if a video of one split also occurs in another, under any name."""
    seen: dict[str, tuple[str, str]] = {}
    for split, videos in clips.items():
        for i, name in enumerate(videos.names):
            try:
                content = videos.content(i)
            except InputError:  # it is skipped and reported later
                continue
            other, where = seen.setdefault(content, (split, name))
            if other != split:
                raise InputError(f"{name} is a {split} video and also the {other} video {where}: remove one of them.")


def digit_clips(digits: MovingDigits, count: int, length: int) -> Clips:
    """Return the first ``count`` clips of moving digits as videos."""
    names = [f"{digits.split} clip {i}" for i in range(count)]
    about = f"moving digits {digits} {length}"
    return Clips(DIGITS, names, lambda i: digits.clip(i, length).frames, lambda i: f"{about} {i}")


def held_out_frames(data: VideoDataModule, name: str, length: int, count: int) -> Tensor:
    """Return up to ``count`` windows of ``length`` encoded frames of a set, (n, length, E), evenly spread over its videos.

    Raises:
        InputError: If there is no such set, or no video is long enough.
    """
    if data.digits:
        if name not in data.digits:
            raise InputError(f"there is no set {name!r}: choose one of {', '.join(data.digits)}.")
        digits = DigitWindows(data.digits[name], data.encoder, length, count)
        return torch.stack([digits[i]["frames"] for i in range(count)])
    data.prepare()
    if name not in data.sets:
        held_out = [other for other in data.sets if other != "train"]
        remedy = f"choose one of {', '.join(held_out)}" if held_out else "give a video or a folder with --data"
        raise InputError(f"the data have no {name} videos: {remedy}, or train with other fractions.")
    videos = data.sets[name]
    long = [i for i, features in enumerate(videos.features) if len(features) >= length]
    if not long:
        wanted = f"{length} frames, {data.seconds:g} s apart: ask for fewer frames, or give longer videos."
        raise InputError(f"no {name} video of {data.sources['train']} has {wanted}")
    windows = Windows(videos.part(long), length, -(-count // len(long)))
    where = np.linspace(0, len(windows) - 1, min(count, len(windows))).round().astype(int).tolist()
    return torch.stack([windows[i]["frames"] for i in where])
