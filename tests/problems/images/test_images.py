"""Image files of all kinds, folders and datasets, and the embedded photos."""

from __future__ import annotations

import struct
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from ebt.errors import InputError
from ebt.problems.images.sources import PHOTOS, open_images, to_picture, to_tensor

HEIGHT, WIDTH = 6, 4
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def read(path: Path, channels: int = 3) -> np.ndarray:
    return open_images(str(path))["train"].read(0, channels)


def test_colour_and_grey(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(PIXELS))
    assert np.array_equal(read(path), PIXELS.transpose(2, 0, 1))
    grey = np.array(Image.fromarray(PIXELS).convert("L"))
    assert np.array_equal(read(path, 1)[0], grey)
    assert np.array_equal(read(save(tmp_path / "g.png", Image.fromarray(grey)), 3), np.stack([grey] * 3))


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    deep = PIXELS[..., 0].astype(np.uint16) * 257
    path = save(tmp_path / "deep.png", Image.fromarray(deep))
    assert np.array_equal(read(path, 1)[0], PIXELS[..., 0])
    high, wide = deep.shape
    (tmp_path / "deep.pgm").write_bytes(b"P5 %d %d 65535\n" % (wide, high) + deep.astype(">u2").tobytes())
    assert np.array_equal(read(tmp_path / "deep.pgm", 1)[0], PIXELS[..., 0])


def test_palettes_are_resolved_and_transparent_parts_are_white(tmp_path: Path) -> None:
    palette = save(tmp_path / "p.png", Image.fromarray(PIXELS).quantize(256))
    assert np.abs(read(palette).astype(int) - PIXELS.transpose(2, 0, 1)).mean() < 16
    alpha = np.dstack((PIXELS, np.full((HEIGHT, WIDTH), 255, np.uint8)))
    alpha[0, 0, 3] = 0
    found = read(save(tmp_path / "alpha.png", Image.fromarray(alpha)))
    assert found[:, 0, 0].tolist() == [255, 255, 255]
    assert np.array_equal(found[:, 1:], PIXELS.transpose(2, 0, 1)[:, 1:])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_photos_are_turned_as_their_exif_data_say(orientation: int, suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"turned.{suffix}", Image.fromarray(PIXELS), exif=exif)
    upright = ImageOps.exif_transpose(Image.open(path))
    assert np.array_equal(read(path), np.array(upright).transpose(2, 0, 1))
    assert np.array_equal(read(path), PIXELS.transpose(2, 0, 1)) == (orientation == 1)


def tiff_entry(tag: int, kind: int, value: bytes) -> bytes:
    """One value of EXIF data; eight bytes are found behind the two entries."""
    return struct.pack("<HHL", tag, kind, 1) + (struct.pack("<L", 38) if len(value) > 4 else value.ljust(4, b"\0"))


@pytest.mark.parametrize(
    ("orientation", "rational", "turned"),
    [
        ((3, struct.pack("<H", 6)), (10, struct.pack("<ll", -1, 0)), True),  # a signed rational where none belongs
        ((3, struct.pack("<H", 6)), (5, struct.pack("<LL", 1, 0)), True),
        ((3, struct.pack("<H", 6)), (99, bytes(8)), True),  # of no known kind
        ((10, struct.pack("<ll", -1, 0)), (5, struct.pack("<LL", 1, 1)), False),
        ((2, b"ab"), (5, struct.pack("<LL", 1, 1)), False),
    ],
)
def test_broken_exif_data_are_no_reason_to_lose_the_pixels(
    orientation: tuple[int, bytes], rational: tuple[int, bytes], turned: bool, tmp_path: Path
) -> None:
    entries = tiff_entry(0x0112, *orientation) + tiff_entry(0x011A, *rational)
    exif = b"Exif\0\0II*\0" + struct.pack("<LH", 8, 2) + entries + bytes(4) + (rational + orientation)[1]
    grey = Image.fromarray(np.full((HEIGHT, WIDTH), 90, np.uint8))
    found = read(save(tmp_path / "a.jpg", grey, exif=exif), 1)
    assert found.shape == ((1, WIDTH, HEIGHT) if turned else (1, HEIGHT, WIDTH))
    assert np.abs(found.astype(int) - 90).max() < 3


def test_pixels_without_a_known_range_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "float.tif", Image.fromarray(PIXELS[..., 0].astype(np.float32)))
    with pytest.raises(InputError, match=r"float\.tif has pixels of mode F"):
        read(path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.png", Image.fromarray(np.tile(PIXELS, (40, 40, 1))))
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(InputError, match=r"cut\.png cannot be read as an image"):
        read(cut)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match=r"text\.png cannot be read as an image"):
        read(tmp_path / "text.png")


def test_folders_are_searched_in_order(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/1.JPG", "a.png", ".hidden/x.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save(tmp_path / name, Image.fromarray(PIXELS), format="png")
    images = open_images(str(tmp_path))["train"]
    assert [Path(name).name for name in images.names] == ["a.png", "1.JPG", "2.png"]
    assert len(images) == 3
    assert np.array_equal(images.part([2]).read(0), PIXELS.transpose(2, 0, 1))


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no images"):
        open_images(str(tmp_path))


def test_datasets_have_images_in_a_field(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"image": [Image.fromarray(PIXELS)] * 2, "label": [0, 1]}).cast_column(
        "image", datasets.Image()
    )
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "set"))
    found = open_images(str(tmp_path / "set"))
    assert set(found) == {"train", "test"}
    assert np.array_equal(found["test"].read(1), PIXELS.transpose(2, 0, 1))
    with pytest.raises(InputError, match=r"no images in the field 'label'.*\['image', 'label'\]"):
        open_images(str(tmp_path / "set"), "label")


def test_unknown_sources_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for source in ("/nowhere/at/all", "no/such/folder", "photo.png", "owner/name"):
        with pytest.raises(InputError, match=f"no such file or folder: {source}"):
            open_images(source)


def test_embedded_photos_are_split_by_photo() -> None:
    found = open_images(PHOTOS)
    assert {split: len(images) for split, images in found.items()} == {"train": 9, "validation": 2, "test": 3}
    assert len({name for images in found.values() for name in images.names}) == 14
    for images in found.values():
        assert min(images.read(0).shape[1:]) >= 64


def test_tensors_and_pictures_are_inverses() -> None:
    array = PIXELS.transpose(2, 0, 1).copy()
    tensor = to_tensor(array)
    assert tensor.min() >= -1
    assert tensor.max() <= 1
    assert np.array_equal(np.array(to_picture(tensor)), PIXELS)
    assert np.array(to_picture(torch.full((1, 2, 2), 7.0))).tolist() == [[255, 255], [255, 255]]
