"""Every data set can be sent to worker processes that are started afresh, as on macOS and Windows."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from forked import server
from PIL import Image
from small_images import photo_folder
from small_videos import autoencoder, clip_folder

from ebt.problems.images.data import ImageDataModule
from ebt.problems.images.probe import labelled_images
from ebt.problems.images.sources import open_images
from ebt.problems.video.data import VideoDataModule

SMALL: dict[str, Any] = {"size": 8, "batch_size": 2}
DIGITS: dict[str, Any] = {**SMALL, "size": 10, "context_length": 2, "clips": 4, "evaluation_clips": 2}


def photos(folder: Path, **settings: Any) -> ImageDataModule:
    return ImageDataModule(photo_folder(folder), fractions=(0.5, 0.25, 0.25), crops=2, **SMALL, **settings)


def rows(folder: Path) -> ImageDataModule:
    images = [Image.open(path) for path in sorted(Path(photo_folder(folder / "files")).iterdir())]
    columns = datasets.Dataset.from_dict({"image": images}).cast_column("image", datasets.Image())
    columns.save_to_disk(str(folder / "set"))
    return ImageDataModule(str(folder / "set"), fractions=(0.5, 0.25, 0.25), **SMALL)


def videos(folder: Path, **settings: Any) -> VideoDataModule:
    own = {"channels": 3, "context_length": 2, "fractions": (0.5, 0.25, 0.25), "cache": str(folder / "cache")}
    return VideoDataModule(clip_folder(folder / "clips", 4), **SMALL, **{**own, **settings})


def digits(folder: Path) -> VideoDataModule:
    return VideoDataModule(**DIGITS)


def encoded_digits(folder: Path) -> VideoDataModule:
    settings = {**DIGITS, "size": 12, "encoder": autoencoder(folder / "encoder"), "cache": str(folder / "cache")}
    return VideoDataModule(**settings)


def some_videos(folder: Path) -> VideoDataModule:
    return videos(folder, train_examples=3)


@pytest.mark.parametrize("make", [photos, rows, videos, some_videos, digits, encoded_digits])
def test_every_data_set_pickles(make: Any, tmp_path: Path) -> None:
    data = make(tmp_path)
    for loader in (data.train_dataloader(), data.val_dataloader(), *data.test_dataloader()):
        sent = pickle.dumps(loader.dataset)
        again = pickle.loads(sent)
        assert len(again) == len(loader.dataset)
        for index in range(len(again)):
            one, other = again[index], loader.dataset[index]
            assert one.keys() == other.keys()
            assert all(torch.equal(one[key], other[key]) for key in one)


def test_labelled_images_pickle(tmp_path: Path) -> None:
    for i in range(2):
        photo_folder(tmp_path / f"class{i}", count=5)
    for source in ("digits", str(tmp_path)):
        data = labelled_images(source, 8, 1, limit=10)
        assert torch.equal(pickle.loads(pickle.dumps(data)).train, data.train)
    images = open_images(str(tmp_path))["train"].part([3, 1])
    assert (pickle.loads(pickle.dumps(images)).read(1) == images.read(1)).all()


def test_encoded_videos_are_sent_by_name(tmp_path: Path) -> None:
    """Not all their numbers to each of the processes."""
    sizes = []
    for frames in (4, 40):
        folder = tmp_path / str(frames)
        clip_folder(folder / "clips", 4, frames=frames)
        data = VideoDataModule(
            str(folder / "clips"), channels=3, context_length=2, fractions=(1, 0, 0), cache=str(folder / "cache"), **SMALL
        )
        sizes.append(len(pickle.dumps(data.train_dataloader().dataset)))
    assert sizes[1] < sizes[0] + 100


@pytest.mark.slow
def test_workers_that_are_started_afresh_make_the_same_batches(tmp_path: Path) -> None:
    alone = list(photos(tmp_path / "photos").train_dataloader())
    loader = photos(tmp_path / "photos", num_workers=1).train_dataloader()
    loader.multiprocessing_context = server()  # what it is sent is pickled, as if it were spawned
    batches = list(loader)
    assert len(batches) == len(alone) > 0
    assert all(torch.equal(one["image"], other["image"]) for one, other in zip(batches, alone, strict=True))


@pytest.mark.parametrize("make", [photos, videos, digits])
def test_workers_see_each_epoch(make: Any, tmp_path: Path) -> None:
    """They are forked before the sampler tells the epoch, so the data set has to share it with them."""
    epochs = []
    for workers in (0, 1):
        data = make(tmp_path)
        data.num_workers = workers
        loader = data.train_dataloader()
        found = []
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            found.append(torch.cat([next(iter(batch.values())) for batch in loader]))
        epochs.append(found)
    assert all(map(torch.equal, *epochs))
    first, second = (found.flatten(1).sum(1).sort().values for found in epochs[0])
    assert not torch.equal(first, second)
