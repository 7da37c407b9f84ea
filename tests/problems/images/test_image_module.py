"""Crops as batches: a function of seed and epoch, splits without a common image."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ebt.errors import InputError
from ebt.problems.images.data import Crops, ImageDataModule
from ebt.problems.images.models import pad_to
from ebt.problems.images.sources import open_images

SIZE = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Ten images; every pixel of image i has the red value i."""
    path = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for i in range(10):
        pixels = random.integers(0, 256, (12 + i, 20, 3), dtype=np.uint8)
        pixels[..., 0] = i
        Image.fromarray(pixels).save(path / f"{i}.png")
    return str(path)


def module(folder: str, **settings: Any) -> ImageDataModule:
    return ImageDataModule(folder, **{"size": SIZE, "crops": 2, "evaluation_crops": 3, "batch_size": 4, **settings})


def reds(images: torch.Tensor) -> list[int]:
    """Which images crops come from."""
    return ((images[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


def test_splits_share_no_image(folder: str) -> None:
    data = module(folder, fractions=(0.6, 0.2, 0.2))
    data.prepare()
    names = [set(images.names) for images in data.sets.values()]
    assert [len(part) for part in names] == [6, 2, 2]
    assert len(set.union(*names)) == 10
    assert data.statistics()["images"] == {"train": 6, "validation": 2, "test": 2}
    other = module(folder, fractions=(0.6, 0.2, 0.2), seed=1)
    other.prepare()
    assert set(other.sets["test"].names) != names[2]


def test_training_crops_follow_seed_and_epoch(folder: str) -> None:
    def epoch(seed: int, number: int) -> torch.Tensor:
        loader = module(folder, seed=seed).train_dataloader()
        loader.sampler.set_epoch(number)
        return torch.cat([batch["image"] for batch in loader])

    first = epoch(0, 0)
    assert first.shape == (16, 3, SIZE, SIZE)
    assert torch.equal(first, epoch(0, 0))
    assert not torch.equal(first, epoch(0, 1))
    assert sorted(set(reds(first))) == sorted(set(reds(epoch(0, 1))))


def test_crops_are_parts_of_their_image(folder: str) -> None:
    images = open_images(folder)["train"]
    whole = images.read(7)
    crops = Crops(images, SIZE, 3, each=2, seed=0)
    crop = ((crops[15]["image"] + 1) * 127.5).round().byte().numpy()
    places = np.lib.stride_tricks.sliding_window_view(whole, (3, SIZE, SIZE))
    assert (places == crop).all((-1, -2, -3)).any()


def test_every_other_crop_is_mirrored(folder: str) -> None:
    images = open_images(folder)["train"].part([0])
    plain, mirrored = (Crops(images, 12, 1, each=200, seed=0, flip=flip) for flip in (False, True))
    same = [torch.equal(plain[i]["image"], mirrored[i]["image"]) for i in range(200)]
    assert 70 < sum(same) < 130
    flipped = same.index(False)
    assert torch.equal(mirrored[flipped]["image"], plain[flipped]["image"].flip(-1))


def test_evaluation_sees_the_same_crops_at_every_level(folder: str) -> None:
    data = module(folder, levels=(0.1, 0.4))
    assert data.test_names == ["noise_0.1", "noise_0.4"]
    low, high = (list(loader) for loader in data.test_dataloader())
    assert torch.equal(low[0]["image"], high[0]["image"])
    assert high[0]["level"].tolist() == pytest.approx([0.4] * 3)
    again, once = (next(iter(data.val_dataloader()))["image"] for _ in range(2))
    assert torch.equal(again, once)


def test_small_images_are_continued_by_their_mirror_image() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    assert pad_to(image, 4, 5)[0].tolist() == [[0, 1, 2, 2, 1], [3, 4, 5, 5, 4], [3, 4, 5, 5, 4], [0, 1, 2, 2, 1]]
    assert pad_to(image, 1, 1) is image


def test_own_sources_for_validation_and_test(folder: str) -> None:
    data = module(folder, test_source=folder, validation_source=folder)
    data.prepare()
    assert {split: len(images) for split, images in data.sets.items()} == {"train": 10, "validation": 10, "test": 10}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size, crops and evaluation_crops must be at least 1"),
        ({"channels": 2}, "channels is 2"),
        ({"levels": (0.1, 1.5)}, "levels has 1.5"),
        ({"fractions": (0.5, 0.1, 0.1)}, "cannot split"),
        ({"on_error": "ignore"}, "on_error is 'ignore'"),
    ],
)
def test_bad_settings_are_named(folder: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        module(folder, **settings)


@pytest.mark.parametrize("spoil", [lambda whole: b"", lambda whole: b"no image", lambda whole: whole[: len(whole) // 2]])
def test_images_that_cannot_be_read_are_skipped_or_refused(folder: str, spoil: Any, tmp_path: Path) -> None:
    whole = module(folder)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    for name in ("10.png", "11.png"):
        (copy / name).write_bytes(spoil((copy / "0.png").read_bytes()))
    Image.fromarray(np.zeros((20, 20), np.float32)).save(copy / "float.tif")
    data = module(str(copy))
    with pytest.warns(UserWarning, match=rf"3 of 13 images of {copy} are skipped\. The first: {copy}/10\.png cannot") as told:
        data.prepare()
    assert len(told) == 1
    assert [Path(name).name for name in data.statistics()["skipped"]] == ["10.png", "11.png", "float.tif"]
    for one, other in zip(data.train_dataloader(), whole.train_dataloader(), strict=True):
        assert torch.equal(one["image"], other["image"])
    with pytest.raises(InputError, match=r"10\.png cannot be read"):
        module(str(copy), on_error="refuse").prepare()
    with pytest.raises(InputError, match=r"none of the 1 image\(s\).*10\.png cannot be read"):
        module(str(copy / "10.png")).prepare()


def test_too_few_images_are_refused(folder: str) -> None:
    one = str(Path(folder) / "0.png")
    with pytest.raises(InputError, match=r"1 image\(s\), too few for train, validation, test"):
        module(one).prepare()
    data = module(one, fractions=(1.0, 0.0, 0.0))
    assert data.val_dataloader() == []
    with pytest.raises(InputError, match="There are no test images"):
        data.test_dataloader()
