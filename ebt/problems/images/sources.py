"""Images from folders, files, Hugging Face datasets and the embedded photos, read as 8-bit RGB or grey.

Letters: C channels, H x W pixels. Image tensors have values in [-1, 1].
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Subset

from ebt.errors import InputError, naming_extras
from ebt.problems.language.corpora import SPLITS, OnError

PHOTOS = "photos"
"""Name of the embedded photos."""
EMBEDDED = {
    "train": "astronaut.png china.jpg motorcycle_left.png motorcycle_right.png rocket.jpg hubble_deep_field.jpg brick.png "
    "grass.png gravel.png",
    "validation": "flower.jpg moon.png",
    "test": "coffee.png chelsea.png camera.png",
}
"""The photos shipped by scikit-image and scikit-learn, by split."""
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"}
_PLAIN = ("1", "L", "RGB", "P", "CMYK", "YCbCr", "HSV", "LAB")
_ALPHA = ("LA", "PA", "RGBA", "La", "RGBa")


@dataclass(frozen=True, eq=False)
class Images:
    """Images that are read one by one, each by ``open`` from one of the ``items``."""

    source: str
    names: Sequence[str]
    items: Any
    open: Callable[[Any], Image.Image]

    def __len__(self) -> int:
        return len(self.names)

    def picture(self, index: int, draft: bool = False) -> Image.Image:
        """Open one image, rotated by its EXIF orientation if that is readable. A draft may be smaller.

        Raises:
            InputError: If the image cannot be read.
        """
        try:
            image = self.open(self.items[index])
            if draft:
                image.draft(None, (1, 1))
            image.load()
            if image.mode == "I" and image.format == "PPM":  # 16 bits, which Pillow widens
                image = image.convert("I;16")
        except Exception as error:  # each decoder raises its own exceptions
            reason = str(error).partition(" <")[0]
            raise InputError(f"{self.names[index]} cannot be read as an image ({reason}): replace or remove it.") from error
        with suppress(Exception):  # only the EXIF data are broken
            ImageOps.exif_transpose(image, in_place=True)
        return image

    def read(self, index: int, channels: int = 3) -> np.ndarray:
        """Read one image (C, H, W), uint8. See ``picture`` and ``to_array``."""
        return to_array(self.picture(index), self.names[index], channels)

    def part(self, indices: Sequence[int]) -> Images:
        """Select images by index."""
        return Images(self.source, [self.names[i] for i in indices], Subset(self.items, indices), self.open)

    def usable(self, on_error: OnError = "skip") -> tuple[list[int], dict[str, str]]:
        """Return the indices of readable images, and the reasons why others are not. Reads all images, in threads.

        Raises:
            InputError: If no image can be read, or with ``"refuse"`` if one cannot.
        """
        with ThreadPoolExecutor() as pool:
            found = dict(zip(self.names, pool.map(self._fault, range(len(self))), strict=True))
        faults = {name: fault for name, fault in found.items() if fault}
        tell_faults(faults, len(self), "image", self.source, on_error)
        return [i for i, name in enumerate(self.names) if name not in faults], faults

    def _fault(self, index: int) -> str:
        try:
            to_array(self.picture(index, draft=True), self.names[index])
        except InputError as error:
            return str(error)
        return ""


def tell_faults(faults: dict[str, str], total: int, what: str, source: str, on_error: OnError) -> None:
    """Warn once of all skipped items, with the first reason. Raises ``InputError`` if none is left, or none may be skipped."""
    if not faults:
        return
    first = next(iter(faults.values()))
    if on_error == "refuse":
        raise InputError(f"{first} Use on_error=skip to skip such files.")
    if len(faults) == total:
        raise InputError(f"none of the {total} {what}(s) of {source} can be used: {first} Give another source.")
    warnings.warn(f"{len(faults)} of {total} {what}s of {source} are skipped. The first: {first}", stacklevel=2)


def to_array(image: Image.Image, name: str, channels: int = 3) -> np.ndarray:
    """Return pixels (C, H, W), uint8. Palettes are resolved, transparent parts become white, and 16 bits are reduced to 8.

    Raises:
        InputError: If pixels have 32 bits, whose range is unknown.
    """
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).round().astype(np.uint8))
    if has_alpha(image):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    elif image.mode not in _PLAIN:
        raise InputError(f"{name} has pixels of mode {image.mode}, which has no known range: save it with 8 or 16 bits.")
    array = np.array(image.convert("L" if channels == 1 else "RGB"))
    return array[None] if channels == 1 else array.transpose(2, 0, 1).copy()


def has_alpha(image: Image.Image) -> bool:
    """Whether an image may have transparent parts."""
    return image.mode in _ALPHA or "transparency" in image.info


def to_tensor(array: np.ndarray) -> Tensor:
    """Convert an 8-bit image (C, H, W) to values in [-1, 1]."""
    return torch.from_numpy(array).float() / 127.5 - 1


def to_picture(image: Tensor) -> Image.Image:
    """Convert an image (C, H, W) with values in [-1, 1] to a picture. Other values are clipped."""
    array = ((image.detach().cpu().float().clamp(-1, 1) + 1) * 127.5).round().byte().numpy()
    return Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0))


def keep_mode(image: Tensor, like: Image.Image) -> Image.Image:
    """Convert an image (C, H, W) to a picture in the mode of another one: grey, 16 bits, or with its transparency."""
    if like.mode.startswith("I;16"):
        values = (image.detach().cpu().double().clamp(-1, 1).mean(0) + 1) * 32767.5
        return Image.fromarray(values.round().numpy().astype(np.uint16))
    picture = to_picture(image)
    if like.mode in ("1", "L", "LA", "La"):
        picture = picture.convert("L")
    if has_alpha(like):
        picture.putalpha(like.convert("RGBA").getchannel("A"))
    return picture


def full_values(image: Image.Image, name: str, channels: int) -> Tensor:
    """Convert a picture to values in [-1, 1], (C, H, W), like ``to_array``, but with 16 bits at full precision and transparency
    ignored."""
    if image.mode.startswith("I;16"):
        return (torch.from_numpy(np.asarray(image).astype(np.float32)) / 32767.5 - 1).expand(channels, -1, -1)
    if has_alpha(image):
        image = image.convert("RGBA").convert("RGB")
    return to_tensor(to_array(image, name, channels))


def to_square(picture: Image.Image, size: int, aspect: float = 1.0) -> Image.Image:
    """Return the centre square of a picture, resized to ``size`` pixels. Its pixels are ``aspect`` times as wide as high."""
    short = min(picture.width * aspect, picture.height)
    wide, high = max(1, round(short / aspect)), max(1, round(short))
    left, top = (picture.width - wide) // 2, (picture.height - high) // 2
    square = picture.crop((left, top, left + wide, top + high))
    return square if square.size == (size, size) else square.resize((size, size), Image.Resampling.BICUBIC)


def open_images(source: str, field: str = "image") -> dict[str, Images]:
    """Open a source and return its images by split ("train", "validation", "test"). Only photos and datasets have several.

    - ``photos``: the embedded photos, split by photo.
    - An image file, or a folder of image files, recursively, sorted by path.
    - A folder written by ``datasets.save_to_disk``, or the id of a dataset of the Hugging Face hub, ``owner/name`` or
      ``owner/name:configuration``, with images in ``field``.

    Raises:
        InputError: If the source does not exist, or has no images or no such field.
    """
    path = Path(source).expanduser()
    if source == PHOTOS:
        return _photos()
    if path.is_file():
        return {"train": of_files(source, [path])}
    if is_plain_folder(path):
        return {"train": of_files(source, files_in(path, SUFFIXES, "image"))}
    parts = open_dataset(source, field)
    known = {split: part for split, part in parts.items() if split in SPLITS} or {"train": next(iter(parts.values()))}
    return {split: of_rows(source, part, field) for split, part in known.items()}


def is_plain_folder(path: Path) -> bool:
    """Whether a folder was not written by ``datasets.save_to_disk``."""
    return path.is_dir() and not any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))


def files_in(folder: Path, suffixes: Collection[str], what: str) -> list[Path]:
    """Return the files of a folder with one of the suffixes, recursively, sorted by path, without hidden ones.

    Raises:
        InputError: If there are none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not found:
        raise InputError(f"{folder} has no {what}s ({', '.join(sorted(suffixes))}): give another folder.")
    return found


def of_files(source: str, files: Sequence[Path]) -> Images:
    """Return the images of files."""
    return Images(source, [str(file) for file in files], files, _open)


def _open(path: Path) -> Image.Image:
    return Image.open(BytesIO(path.read_bytes()))  # so that no file stays open


def of_rows(source: str, part: Any, field: str) -> Images:
    """Return the images of a dataset of ``datasets``."""
    return Images(source, [f"image {i} of {source}" for i in range(len(part))], part, itemgetter(field))


def open_dataset(source: str, field: str) -> dict[str, Any]:
    """Open a dataset on disk or on the hub that has images in a field. Returns its parts by split.

    Raises:
        InputError: If there is no such dataset or field.
    """
    import datasets

    local = Path(source).expanduser().is_dir()
    if not local and not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?(:.*)?", source):  # not an id of the hub
        raise InputError(f"no such file or folder: {source}")
    name, _, configuration = source.partition(":")
    try:
        data: Any = datasets.load_from_disk(source) if local else datasets.load_dataset(name, configuration or None)
    except Exception as error:  # the library and its downloads raise many exceptions
        reason = f"it cannot be loaded as a dataset either ({' '.join(str(error).split())}). The hub needs the network."
        raise InputError(f"no such file or folder: {source}; {reason}") from error
    parts: dict[str, Any] = data if isinstance(data, dict) else {"train": data}
    for part in parts.values():
        if not isinstance(part.features.get(field), datasets.Image):
            raise InputError(f"{source} has no images in the field {field!r}: its fields are {sorted(part.features)}.")
    return parts


@naming_extras()
def embedded_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's handwritten digits (n, 8, 8), uint8, and their labels (n,). ``InputError`` without scikit-learn."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    return (digits.images * (255 / 16)).round().astype(np.uint8), digits.target


@naming_extras()
def _photos() -> dict[str, Images]:
    import skimage.data
    import sklearn.datasets

    folders = [Path(skimage.data.__file__).parent, Path(sklearn.datasets.__file__).parent / "images"]
    files = {file.name: file for folder in folders for file in folder.iterdir()}
    return {split: of_files(PHOTOS, [files[name] for name in names.split()]) for split, names in EMBEDDED.items()}
