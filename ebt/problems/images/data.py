"""Batches of image crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ebt.errors import InputError
from ebt.problems.images.models import pad_to
from ebt.problems.images.sources import PHOTOS, Images, open_images, to_tensor
from ebt.problems.language.corpora import SPLITS, OnError, check_fractions
from ebt.training.sampling import EpochSampler, ResumableData, ResumableLoader, VariedDataset

KEPT = 512
"""Number of decoded images kept in memory."""


class Crops(VariedDataset):
    """Square crops, a function of (seed, epoch, index): dict(``image`` (C, size, size)).

    Images smaller than ``size`` are extended by reflection. Each is cropped ``each`` times per epoch. With ``flip`` a random
    half of the crops is mirrored. ``level`` is added to every example.
    """

    def __init__(
        self, images: Images, size: int, channels: int, each: int, seed: int, flip: bool = False, level: float | None = None
    ) -> None:
        super().__init__(seed)
        self.images, self.size, self.channels, self.each = images, size, channels, each
        self.flip, self.level = flip, level

    def __len__(self) -> int:
        return len(self.images) * self.each

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image = _decoded(self.images, index // self.each, self.channels, self.size)
        random = np.random.default_rng((self.seed, self.epoch, index))
        top, left = (int(random.integers(length - self.size + 1)) for length in image.shape[1:])
        crop = image[:, top : top + self.size, left : left + self.size]
        if self.flip and random.random() < 0.5:
            crop = crop[:, :, ::-1]
        example = {"image": to_tensor(crop.copy())}
        return example if self.level is None else {**example, "level": torch.tensor(self.level)}


@lru_cache(KEPT)
def _decoded(images: Images, index: int, channels: int, size: int) -> np.ndarray:
    return pad_to(images.read(index, channels), size, size)


class SplitData(ResumableData):
    """Disjoint splits, from separate sources or as shares of one. A subclass fills ``sets`` and makes their examples.

    The order of training batches depends only on the seed and the epoch. A checkpoint saved within an epoch resumes with the
    next batch. Evaluation examples are always the same.

    Args:
        source, validation_source, test_source: See the subclass.
        batch_size, evaluation_batch_size: B, per process. Evaluation uses ``batch_size`` by default.
        seed: Seed of the split, the order and the examples of an epoch.
        fractions: Shares of training, validation and test, for splits without a source of their own.
        num_workers: Number of processes that prepare batches.
        on_error: ``"skip"`` skips bad items with one warning, ``"refuse"`` raises an error for the first.

    Raises:
        InputError: By ``__init__`` if settings are out of range. By ``prepare`` if a source has nothing usable.
    """

    what: str
    """Name of an item, for errors."""
    test_names: list[str]
    """Names of the test sets, in the order of their loaders. Empty for a single test set."""

    def __init__(
        self,
        source: str,
        validation_source: str | None,
        test_source: str | None,
        batch_size: int = 16,
        evaluation_batch_size: int | None = None,
        seed: int = 0,
        fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
        num_workers: int = 0,
        on_error: OnError = "skip",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers
        self.evaluation_batch_size = batch_size if evaluation_batch_size is None else evaluation_batch_size
        if min(batch_size, self.evaluation_batch_size) < 1 or min(seed, num_workers) < 0:
            raise InputError("batch sizes must be at least 1, seed and num_workers at least 0.")
        check_fractions(fractions)
        if on_error not in get_args(OnError):
            raise InputError(f"on_error is {on_error!r}: give one of {', '.join(get_args(OnError))}.")
        self.sources = {"train": source, "validation": validation_source, "test": test_source}
        self.sets, self.skipped = dict[str, Any](), dict[str, str]()

    def examples(self, name: str) -> VariedDataset:
        """Return the examples of a set: a split, or one of ``test_names``."""
        raise NotImplementedError

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]] | list[DataLoader[dict[str, Tensor]]]:
        """The same examples every time. An empty list, which skips validation, if there is no validation split."""
        self.prepare()
        return self.evaluation_loader(self.examples("validation")) if "validation" in self.sets else []

    def test_dataloader(self) -> list[DataLoader[dict[str, Tensor]]]:
        """One loader for each of ``test_names``, or for the only test set."""
        self.prepare()
        if not self.sets.keys() & {"test", *self.test_names}:
            raise InputError(f"There are no test {self.what}s. Give a test_source, or a share above 0 in fractions.")
        return [self.evaluation_loader(self.examples(name)) for name in self.test_names or ["test"]]

    def split(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Complete the splits: those in ``found`` are kept, missing ones are drawn from the training split."""
        whole, fractions = found["train"], zip(SPLITS, self.hparams["fractions"], strict=True)
        shares = {split: share for split, share in fractions if split not in found and share > 0}
        counts = {split: max(1, round(share * len(whole))) for split, share in shares.items()}
        if sum(counts.values()) >= len(whole):
            raise InputError(
                f"{whole.source} has {len(whole)} {self.what}(s), too few for {', '.join(['train', *counts])}: give more, or "
                "separate ones to hold out (in a study --validation; in a configuration validation_source and test_source, "
                "or fractions [1, 0, 0] for none)."
            )
        order = np.random.default_rng(self.seed).permutation(len(whole)).tolist()
        parts = dict(found)
        for split, count in counts.items():
            parts[split], order = whole.part(sorted(order[:count])), order[count:]
        return {**parts, "train": whole.part(sorted(order))}


class ImageDataModule(SplitData):
    """Batches of crops: dict(``image`` (B, C, size, size)), values in [-1, 1].

    The splits share no image. The positions of the crops depend on the seed and the epoch.

    Args:
        source: Source of images, see ``ebt.problems.images.sources.open_images``. The embedded photos by default.
        validation_source, test_source: Separate sources.
        image_field: Field with the images, in a Hugging Face dataset.
        size: Height and width of a crop, in pixels.
        channels: 3, or 1 for grey images.
        crops: Crops per image and epoch.
        evaluation_crops: Crops per image in evaluation.
        flip: Whether to mirror a random half of the training crops.
        levels: Noise levels of the test sets, as shares of the schedule. There is one set, ``noise_LEVEL``, for each.
        settings: See ``SplitData``.
    """

    what = "image"

    def __init__(
        self,
        source: str = PHOTOS,
        validation_source: str | None = None,
        test_source: str | None = None,
        image_field: str = "image",
        size: int = 64,
        channels: int = 3,
        crops: int = 16,
        evaluation_crops: int = 8,
        flip: bool = True,
        levels: Sequence[float] = (0.1, 0.2),
        **settings: Any,
    ) -> None:
        super().__init__(source, validation_source, test_source, **settings)
        if min(size, crops, evaluation_crops) < 1:
            raise InputError("size, crops and evaluation_crops must be at least 1.")
        if channels not in (1, 3):
            raise InputError(f"channels is {channels}: give 3, or 1 for grey images.")
        if bad := [level for level in levels if not 0 < level <= 1]:
            raise InputError(f"levels has {bad[0]}: give shares of the noise schedule, above 0 and at most 1.")
        self.image_size, self.channels, self.levels = size, channels, {f"noise_{level:g}": level for level in levels}
        self.test_names = list(self.levels)

    def prepare(self) -> None:
        """Find all images. Later calls return at once."""
        if self.sets:
            return
        found = dict[str, Images]()
        for split, source in self.sources.items():
            if source is not None:
                parts = open_images(source, self.hparams["image_field"])
                found |= parts if split == "train" else {split: parts.get(split, parts["train"])}
        for split, images in found.items():
            good, faults = images.usable(self.hparams["on_error"])
            found[split], self.skipped = images.part(good), self.skipped | faults
        self.sets = self.split(found)

    def statistics(self) -> dict[str, Any]:
        """Describe the data: source, size of the crops, number of images per split, and skipped images."""
        self.prepare()
        told = {"source": self.sources["train"], "size": self.image_size, "channels": self.channels}
        return {**told, "images": {split: len(images) for split, images in self.sets.items()}, "skipped": self.skipped}

    def train_dataloader(self) -> ResumableLoader:
        """Batches in the order of (seed, epoch). An incomplete last batch is dropped, unless it is the only one."""
        return self.training_loader(self.examples("train"), EpochSampler)

    def examples(self, name: str) -> Crops:
        self.prepare()
        images, given = self.sets["test" if name in self.levels else name], self.hparams
        each, flip = (given["crops"], given["flip"]) if name == "train" else (given["evaluation_crops"], False)
        return Crops(images, self.image_size, self.channels, each, self.seed, flip, self.levels.get(name))
