"""Crops of images as batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ebt.errors import InputError
from ebt.problems.images.sources import PHOTOS, Images, check_on_error, open_images, pad_to, to_tensor
from ebt.problems.language.corpora import SPLITS, check_fractions
from ebt.problems.skipped import OnError
from ebt.training.sampling import EpochSampler, ResumableData, ResumableLoader

KEPT = 512
"""So many decoded images stay in memory."""


class Varied(Dataset[dict[str, Tensor]]):
    """Examples that are other ones in each epoch."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose them."""
        self.epoch = epoch


class Crops(Varied):
    """Square crops, a function of (seed, epoch, index): dict(``image`` (C, size, size)).

    Images smaller than ``size`` are continued by their mirror image. Each is cropped ``each`` times in one epoch; with ``flip``
    every other crop is mirrored. ``level`` goes into every example.
    """

    def __init__(
        self, images: Images, size: int, channels: int, each: int, seed: int, flip: bool = False, level: float | None = None
    ) -> None:
        self.images, self.size, self.channels, self.each, self.seed = images, size, channels, each, seed
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


class ImageDataModule(ResumableData):
    """Batches of crops: dict(``image`` (B, C, size, size)), values in [-1, 1].

    The splits share no image. The order of training batches and the places of the crops depend on the seed and the epoch alone;
    a checkpoint written in the middle of an epoch resumes with the next batch. Evaluation always sees the same crops.

    Args:
        source: where images come from, see ``ebt.problems.images.sources.open_images``; the embedded photos by default.
        validation_source, test_source: sources of their own.
        image_field: of a Hugging Face dataset.
        size: of a crop, in pixels.
        channels: 3, or 1 for grey images.
        crops: of an image in one epoch.
        evaluation_crops: of an image in evaluation.
        flip: mirror every other training crop.
        levels: the noise levels of the test sets, as shares of the schedule; one set, ``noise_LEVEL``, for each.
        batch_size, evaluation_batch_size: B, per process; evaluation takes ``batch_size`` by default.
        seed: of the split, the order and the places.
        fractions: shares of the images for training, validation and test, where the source does not split itself.
        num_workers: processes that prepare batches.
        on_error: images that cannot be read are left out with one warning ("skip"), or end the run ("refuse").

    Raises:
        InputError: by ``__init__`` for settings out of range; by ``prepare`` for sources without images, or refused ones.
    """

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
        batch_size: int = 16,
        evaluation_batch_size: int | None = None,
        seed: int = 0,
        fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
        num_workers: int = 0,
        on_error: OnError = "skip",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.evaluation_batch_size = batch_size if evaluation_batch_size is None else evaluation_batch_size
        if min(size, crops, evaluation_crops, batch_size, self.evaluation_batch_size) < 1 or min(seed, num_workers) < 0:
            raise InputError("size, numbers of crops and batch sizes must be at least 1, seed and num_workers at least 0.")
        if channels not in (1, 3):
            raise InputError(f"channels is {channels}: give 3, or 1 for grey images.")
        if bad := [level for level in levels if not 0 < level <= 1]:
            raise InputError(f"levels has {bad[0]}: give shares of the noise schedule, above 0 and at most 1.")
        check_fractions(fractions)
        check_on_error(on_error)
        self.sources = {"train": source, "validation": validation_source, "test": test_source}
        self.image_size, self.channels = size, channels
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers
        self.test_names = [f"noise_{level:g}" for level in levels]
        self.sets, self.skipped = dict[str, Images](), dict[str, str]()

    def prepare(self) -> None:
        """Find all images, once; any later call returns at once."""
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
        self.sets = split_images(found, self.hparams["fractions"], self.seed)

    def statistics(self) -> dict[str, Any]:
        """What the data are: source, size of the crops, number of images of each split, and what was skipped."""
        self.prepare()
        told = {"source": self.sources["train"], "size": self.image_size, "channels": self.channels}
        return {**told, "images": {split: len(images) for split, images in self.sets.items()}, "skipped": self.skipped}

    def train_dataloader(self) -> ResumableLoader:
        """Batches in the order of (seed, epoch). An incomplete last batch is left out, unless it is the only one."""
        return self.training_loader(self._crops("train", "crops", flip=self.hparams["flip"]), EpochSampler)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]] | list[DataLoader[dict[str, Tensor]]]:
        """The same crops every time; an empty list, which skips validation, without such a split."""
        self.prepare()
        return self.evaluation_loader(self._crops("validation")) if "validation" in self.sets else []

    def test_dataloader(self) -> list[DataLoader[dict[str, Tensor]]]:
        """One loader for each of ``test_names``, with the same crops."""
        self.prepare()
        if "test" not in self.sets:
            raise InputError("There are no test images. Give a test_source, or a share above 0 in fractions.")
        return [self.evaluation_loader(self._crops("test", level=level)) for level in self.hparams["levels"]]

    def _crops(self, split: str, each: str = "evaluation_crops", **how: Any) -> Crops:
        self.prepare()
        return Crops(self.sets[split], self.image_size, self.channels, self.hparams[each], self.seed, **how)


def split_images(found: Mapping[str, Any], fractions: Sequence[float], seed: int, what: str = "image") -> dict[str, Any]:
    """Splits without a common image: those that are there stay, missing ones are drawn from the training images.

    Raises:
        InputError: too few images.
    """
    whole = found["train"]
    shares = {split: share for split, share in zip(SPLITS, fractions, strict=True) if split not in found and share > 0}
    counts = {split: max(1, round(share * len(whole))) for split, share in shares.items()}
    if sum(counts.values()) >= len(whole):
        raise InputError(
            f"{whole.source} has {len(whole)} {what}(s), too few for {', '.join(['train', *counts])}: give more, "
            "or others to hold out (in a study --validation; in a configuration validation_source and test_source, or "
            "fractions [1, 0, 0] for none)."
        )
    order = np.random.default_rng(seed).permutation(len(whole)).tolist()
    parts = dict(found)
    for split, count in counts.items():
        parts[split], order = whole.part(sorted(order[:count])), order[count:]
    parts["train"] = whole.part(sorted(order))
    return parts
