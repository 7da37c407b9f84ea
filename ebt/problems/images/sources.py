"""Images of folders, files, Hugging Face datasets and the embedded photos, read as 8-bit RGB or grey.

Letters: C channels, H x W pixels. As tensors, images have values in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ebt.errors import InputError
from ebt.problems.language.corpora import SPLITS

PHOTOS = "photos"
"""The name of the embedded photos."""
EMBEDDED = {
    "train": (
        "astronaut.png",
        "china.jpg",
        "motorcycle_left.png",
        "motorcycle_right.png",
        "rocket.jpg",
        "hubble_deep_field.jpg",
        "brick.png",
        "grass.png",
        "gravel.png",
    ),
    "validation": ("flower.jpg", "moon.png"),
    "test": ("coffee.png", "chelsea.png", "camera.png"),
}
"""The photos that scikit-image and scikit-learn ship, by split."""
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"}
_PLAIN = ("1", "L", "RGB", "P", "CMYK", "YCbCr", "HSV", "LAB")
_ALPHA = ("LA", "PA", "RGBA", "La", "RGBa")


@dataclass(frozen=True)
class Images:
    """Images that are read one by one."""

    source: str
    names: Sequence[str]
    open: Callable[[int], Image.Image]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int, channels: int = 3) -> np.ndarray:
        """One image (C, H, W), uint8.

        Raises:
            InputError: it cannot be read; see ``to_array``.
        """
        return to_array(self.open(index), self.names[index], channels)

    def part(self, indices: Sequence[int]) -> Images:
        """Some of them."""
        return Images(self.source, [self.names[i] for i in indices], lambda i: self.open(indices[i]))


def to_array(image: Image.Image, name: str, channels: int = 3) -> np.ndarray:
    """An image as it is meant to be seen, (C, H, W), uint8: turned by its EXIF data, its palette resolved, transparent parts on
    white, 16 bits reduced to 8.

    Raises:
        InputError: pixels that cannot be read, or of a kind that has no known range (32 bits).
    """
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).round().astype(np.uint8))
        if image.mode in _ALPHA or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        elif image.mode not in _PLAIN:
            raise InputError(f"{name} has pixels of mode {image.mode}, whose range is not known: save it with 8 or 16 bits.")
        array = np.array(image.convert("L" if channels == 1 else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{name} cannot be read as an image ({error}): it is damaged. Replace or remove it.") from error
    return array[None] if channels == 1 else array.transpose(2, 0, 1).copy()


def to_tensor(array: np.ndarray) -> Tensor:
    """Values in [-1, 1] of an 8-bit image (C, H, W)."""
    return torch.from_numpy(array).float() / 127.5 - 1


def to_picture(image: Tensor) -> Image.Image:
    """The picture of an image (C, H, W) with values in [-1, 1]; others are clipped."""
    array = ((image.detach().cpu().float().clamp(-1, 1) + 1) * 127.5).round().byte().numpy()
    return Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0))


def to_square(picture: Image.Image, size: int) -> Image.Image:
    """The middle square of a picture, resized to ``size`` x ``size`` pixels."""
    short = min(picture.size)
    left, top = (picture.width - short) // 2, (picture.height - short) // 2
    square = picture.crop((left, top, left + short, top + short))
    return square if short == size else square.resize((size, size), Image.Resampling.BICUBIC)


def open_image(path: str | Path) -> Image.Image:
    """An image file, not yet decoded.

    Raises:
        InputError: it is no image.
    """
    try:
        return Image.open(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as an image ({error}): replace or remove it.") from error


def open_images(source: str, field: str = "image") -> dict[str, Images]:
    """Images of a source by split ("train", "validation", "test"); only the embedded photos and datasets have several.

    - ``photos``: the embedded photos, split by photo.
    - an image file, or a folder of such files, recursive, sorted by path.
    - a folder written by ``datasets.save_to_disk``, or the id of a dataset of the Hugging Face hub, ``owner/name`` or
      ``owner/name:configuration``, with images in ``field``.

    Raises:
        InputError: there is no such source, no image in it, or no such field.
    """
    path = Path(source).expanduser()
    if source == PHOTOS:
        return embedded_photos()
    if path.is_file():
        return {"train": _of_files(source, [path])}
    if path.is_dir() and not (path / "dataset_info.json").is_file() and not (path / "dataset_dict.json").is_file():
        return {"train": _of_files(source, image_files(path))}
    return _of_dataset(source, field)


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder, recursive, sorted by path.

    Raises:
        InputError: there is none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not found:
        raise InputError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))}): name a folder that does.")
    return found


def embedded_photos() -> dict[str, Images]:
    """The photos that scikit-image and scikit-learn ship, split by photo.

    Raises:
        InputError: these packages are not installed.
    """
    try:
        import skimage.data
        import sklearn.datasets
    except ImportError as error:
        raise InputError(
            "the embedded photos come with scikit-image and scikit-learn: pip install 'energy-based-transformers[images]', or "
            "name a folder of images."
        ) from error
    folders = [Path(skimage.data.__file__).parent, Path(sklearn.datasets.__file__).parent / "images"]
    files = {file.name: file for folder in folders for file in folder.iterdir()}
    return {split: _of_files(PHOTOS, [files[name] for name in names]) for split, names in EMBEDDED.items()}


def _of_files(source: str, files: Sequence[Path]) -> Images:
    return Images(source, [str(file) for file in files], lambda i: open_image(files[i]))


def _of_dataset(source: str, field: str) -> dict[str, Images]:
    import datasets

    name, _, configuration = source.partition(":")
    try:
        local = Path(source).expanduser().is_dir()
        data: Any = datasets.load_from_disk(source) if local else datasets.load_dataset(name, configuration or None)
    except Exception as error:  # the library and its downloads raise many kinds
        raise InputError(
            f"{source!r} is no folder of images and cannot be loaded as a dataset ({' '.join(str(error).split())}). Give an "
            "existing folder, 'photos', or the id of a dataset of the hub (which needs the network)."
        ) from error
    parts = data if isinstance(data, dict) else {"train": data}
    for part in parts.values():
        if not isinstance(part.features.get(field), datasets.Image):
            raise InputError(f"{source} has no images in the field {field!r}: its fields are {sorted(part.features)}.")
    known = {split: part for split, part in parts.items() if split in SPLITS} or {"train": next(iter(parts.values()))}
    return {split: _of_rows(source, part, field) for split, part in known.items()}


def _of_rows(source: str, part: Any, field: str) -> Images:
    names = [f"image {i} of {source}" for i in range(len(part))]
    return Images(source, names, lambda i: part[i][field])
