"""Frozen encoders: they turn frames into vectors for a video model and, where possible, back to pixels. Encodings on disk.

Names: ``pixels``; ``patches``, ``patches:P`` or ``patches:P:K`` (patches of P x P pixels, K numbers each); or a folder or an
id of the Hugging Face hub with an ``AutoencoderKL`` of ``diffusers`` or a DINOv2 of ``transformers``.

Letters: n frames, T frames of a video, C channels, H x W pixels with values in [-1, 1], E numbers per encoded frame.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.format import open_memmap
from torch import Tensor

from ebt.errors import InputError
from ebt.files import write_whole
from ebt.nn.patches import patchify
from ebt.problems.images.sources import tell_faults, to_tensor
from ebt.problems.language.corpora import OnError
from ebt.problems.video.clips import Clips

AT_ONCE = 16
"""Number of frames that a network encodes or decodes at a time."""
PATCH = 4
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of the colours that DINOv2 was trained on, in [0, 1]."""
NOT_CONTENT = ("transformers_version", "dtype", "torch_dtype")
"""Entries of a configuration that do not change the encoding."""


class Encoder(ABC):
    """Deterministic map of square frames of ``size`` pixels and ``channels`` channels to vectors of ``dim`` numbers."""

    learned = False
    """Whether it is a network, so that encodings are worth caching."""
    decodes = False
    """Whether ``decode`` works."""

    def __init__(self, name: str, size: int, channels: int, dim: int) -> None:
        self.name, self.size, self.channels, self.dim = name, size, channels, dim

    @abstractmethod
    def encode(self, frames: Tensor) -> Tensor:
        """Return the vectors (n, E) of frames (n, C, H, W)."""

    def decode(self, vectors: Tensor) -> Tensor:
        """Return the frames (n, C, H, W) of vectors (n, E). Raises ``InputError`` if the encoder discards too much."""
        raise InputError(
            f"{self.name} cannot be turned back into pictures: use pixels, patches of full size or an AutoencoderKL for that."
        )

    @property
    def key(self) -> str:
        """Text that identifies the encoding, for caches."""
        return f"{self.name} {self.size} {self.channels}"


class Pixels(Encoder):
    """The pixels of small frames. Black is 0, so that dark pixels lie where candidates start and need no prediction."""

    decodes = True

    def encode(self, frames: Tensor) -> Tensor:
        return frames.flatten(1) + 1

    def decode(self, vectors: Tensor) -> Tensor:
        return vectors.unflatten(1, (self.channels, self.size, self.size)) - 1


class Patches(Encoder):
    """Patches of P x P pixels, each projected to K numbers by a fixed random matrix with orthonormal rows.

    With K = C x P x P, the default, the projection is lossless and ``decode`` inverts it.
    """

    def __init__(self, name: str, size: int, channels: int, patch: int = PATCH, kept: int | None = None) -> None:
        full = channels * patch**2
        self.patch, self.kept = patch, full if kept is None else kept
        self.decodes = self.kept == full
        if patch < 1 or size % patch or not 1 <= self.kept <= full:
            rule = f"patches must divide frames of {size} pixels and keep 1 to {full} numbers each"
            raise InputError(f"encoder {name}: {rule}. Give patches:P, or patches:P:K, with such numbers.")
        super().__init__(name, size, channels, (size // patch) ** 2 * self.kept)
        generator = torch.Generator().manual_seed(0)
        square = torch.randn(full, full, generator=generator, dtype=torch.float64)
        self.matrix = torch.linalg.qr(square).Q[: self.kept].float()

    def encode(self, frames: Tensor) -> Tensor:
        return (patchify(frames, self.patch) @ self.matrix.T.to(frames)).flatten(1)

    def decode(self, vectors: Tensor) -> Tensor:
        if not self.decodes:
            return super().decode(vectors)
        rows = self.size // self.patch
        cut = vectors.unflatten(1, (rows, rows, self.kept)) @ self.matrix.to(vectors)
        return F.pixel_shuffle(cut.permute(0, 3, 1, 2), self.patch)


class Network(Encoder):
    """A pretrained network, on the accelerator if there is one. Grey frames are converted to its number of ``colours``."""

    learned = True

    def __init__(
        self, name: str, size: int, channels: int, dim: int, model: Any, colours: int, pixels: str, fits: bool
    ) -> None:
        super().__init__(name, size, channels, dim)
        if not fits or channels not in (1, colours):
            takes = f"{colours} channels and {pixels} pixels, not {channels} and {size}"
            raise InputError(f"encoder {name} takes frames of {takes}: change channels or size.")
        self.colours = colours
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        self.model = model.float().eval().requires_grad_(False).to(device or "cpu")

    @cached_property
    def key(self) -> str:
        config = self.model.config if isinstance(self.model.config, dict) else self.model.config.to_dict()
        told = {name: value for name, value in config.items() if not name.startswith("_") and name not in NOT_CONTENT}
        digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
        for name, weight in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return f"{type(self).__name__} {digest.hexdigest()} {self.size} {self.channels}"

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        frames = frames.float().expand(-1, self.colours, -1, -1) if self.channels == 1 else frames.float()
        return torch.cat([self._encode(part.to(self.model.device)).cpu() for part in frames.split(AT_ONCE)])

    @abstractmethod
    def _encode(self, frames: Tensor) -> Tensor:
        """Encode a few frames."""


class Latents(Network):
    """Latents of a ``diffusers`` ``AutoencoderKL``: the mean minus ``shift_factor``, times ``scaling_factor``."""

    decodes = True

    def __init__(self, name: str, size: int, channels: int, model: Any) -> None:
        config, stride = model.config, 2 ** (len(model.config.block_out_channels) - 1)
        self.shape = (config.latent_channels, size // stride, size // stride)
        self.shift, self.scale = config.get("shift_factor") or 0.0, config.scaling_factor
        wanted = f"a multiple of {stride}", size % stride == 0
        super().__init__(name, size, channels, math.prod(self.shape), model, config.in_channels, *wanted)

    def _encode(self, frames: Tensor) -> Tensor:
        latents: Tensor = self.model.encode(frames).latent_dist.mean
        return ((latents - self.shift) * self.scale).flatten(1)

    @torch.no_grad()
    def decode(self, vectors: Tensor) -> Tensor:
        latents = vectors.float().unflatten(1, self.shape) / self.scale + self.shift
        frames = torch.cat([self.model.decode(part.to(self.model.device)).sample.cpu() for part in latents.split(AT_ONCE)])
        return frames.mean(1, keepdim=True) if self.channels == 1 else frames


class Features(Network):
    """The class token of a ``transformers`` DINOv2. It cannot be decoded to pictures."""

    def __init__(self, name: str, size: int, channels: int, model: Any) -> None:
        config, wanted = model.config, (f"at least {model.config.patch_size}", size >= model.config.patch_size)
        super().__init__(name, size, channels, config.hidden_size, model, config.num_channels, *wanted)

    def _encode(self, frames: Tensor) -> Tensor:
        mean, std = (torch.tensor(colours, device=frames.device).view(1, -1, 1, 1) for colours in (MEAN, STD))
        hidden: Tensor = self.model(pixel_values=((frames + 1) / 2 - mean) / std).last_hidden_state
        return hidden[:, 0]


def open_encoder(name: str, size: int, channels: int) -> Encoder:
    """Open an encoder by name.

    Args:
        name: Name of the encoder, see the module.
        size: Height and width of the frames, in pixels.
        channels: Channels of the frames, 1 or 3.

    Raises:
        InputError: If there is no such encoder, its kind is not supported, or it does not accept such frames.
    """
    if size < 1 or channels not in (1, 3):
        raise InputError(f"size is {size}, channels {channels}: give a size of at least 1, and 3 channels, or 1 for grey.")
    kind, *numbers = name.split(":")
    if kind == "pixels" and not numbers:
        return Pixels(name, size, channels, channels * size**2)
    if kind == "patches":
        if len(numbers) > 2 or not all(number.isdecimal() and int(number) for number in numbers):
            raise InputError(f"encoder {name}: give patches, patches:SIDE or patches:SIDE:NUMBERS, whole numbers above 0.")
        return Patches(name, size, channels, *map(int, numbers))
    return _network(name, size, channels)


def _network(name: str, size: int, channels: int) -> Network:
    config = _config(name)
    kind = config.get("_class_name") or config.get("model_type")
    try:
        if kind == "AutoencoderKL":
            from diffusers import AutoencoderKL

            return Latents(name, size, channels, AutoencoderKL.from_pretrained(name))
        if kind == "dinov2":
            from transformers import Dinov2Model

            model, found = Dinov2Model.from_pretrained(name, output_loading_info=True)
            if found["missing_keys"]:  # they would be random
                raise ValueError(f"{len(found['missing_keys'])} of its weights are missing")
            return Features(name, size, channels, model)
    except InputError:
        raise
    except Exception as error:  # each library and file format raises its own exceptions
        raise InputError(f"encoder {name} cannot be loaded ({' '.join(str(error).split())}): copy it again.") from error
    known = "pixels, patches, an AutoencoderKL of diffusers or a DINOv2 of transformers"
    raise InputError(f"encoder {name} is of kind {kind!r}: give {known}.")


def _config(name: str) -> dict[str, Any]:
    """Read the config.json of a folder or of an id of the hub."""
    folder = Path(name).expanduser()
    if not name or not folder.is_dir():
        if close := difflib.get_close_matches(name, ("pixels", "patches"), 1, 0.8):
            raise InputError(f"there is no encoder {name!r}: did you mean {close[0]}?")
        if not name or name[0] in "/.~" or folder.exists() or name.count("/") > 1:  # not an id of the hub
            raise InputError(f"encoder {name!r}: there is no such folder. Give pixels, patches, or a folder or id of a model.")
    try:
        from huggingface_hub import hf_hub_download

        file = folder / "config.json" if folder.is_dir() else Path(hf_hub_download(name, "config.json"))
        return dict(json.loads(file.read_text(encoding="utf-8")).items())
    except Exception as error:  # the client of the hub raises many exceptions
        known = f"pixels nor patches, nor a folder or id of a model with config.json ({' '.join(str(error).split())[:200]})"
        raise InputError(f"encoder {name} is neither {known}: check the name.") from error


def default_cache() -> Path:
    """Folder ``ebt`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ebt" / "frames"


class CacheError(InputError):
    """The cache cannot be written."""


class FeatureCache:
    """Arrays by key, one file each. Files are written under another name first, so that partial ones are never read."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = default_cache() if folder is None else Path(folder).expanduser()

    def path(self, key: str) -> Path:
        """Return the file of a key."""
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.npy"

    def get(self, key: str) -> np.ndarray | None:
        """Return the array of a key, memory-mapped. ``None`` if there is none, or its file is damaged."""
        try:
            return open_memmap(self.path(key), mode="r")
        except (OSError, ValueError):  # missing, cut short, or not an array
            return None

    def put(self, key: str, array: np.ndarray) -> np.ndarray:
        """Write an array and return it memory-mapped. Raises ``CacheError`` on failure."""
        path = self.path(key)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with write_whole(path) as file:
                np.save(file, array, allow_pickle=False)
            return open_memmap(path, mode="r")
        except OSError as error:
            raise CacheError(f"the cache {self.folder} cannot be written ({error}): make room or choose another.") from error


@dataclass(frozen=True)
class Encoded:
    """Encoded videos."""

    source: str
    names: Sequence[str]
    features: Sequence[np.ndarray]
    """Features (T, E) of each video."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Reasons by name of the videos that cannot be used."""

    def __len__(self) -> int:
        return len(self.names)

    def part(self, indices: Sequence[int]) -> Encoded:
        """Select videos by index."""
        return Encoded(self.source, [self.names[i] for i in indices], [self.features[i] for i in indices])

    def __getstate__(self) -> dict[str, Any]:
        """Send worker processes the file names instead of the arrays."""
        return {**self.__dict__, "features": [getattr(array, "filename", array) for array in self.features]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        features = [array if isinstance(array, np.ndarray) else open_memmap(array, mode="r") for array in state["features"]]
        self.__dict__.update(state, features=features)


def encode_clips(clips: Clips, encoder: Encoder, cache: FeatureCache, length: int, on_error: OnError = "skip") -> Encoded:
    """Encode videos, or read their encodings from the cache.

    Args:
        clips: The videos.
        encoder: The frozen encoder.
        cache: Cache of encodings.
        length: Minimum number of frames of a video.
        on_error: ``"skip"`` skips unusable videos with one warning, ``"refuse"`` raises an error for the first.

    Raises:
        InputError: If no video can be used, or with ``"refuse"`` if one cannot.
    """
    found, faults, seen = dict[str, np.ndarray](), dict[str, str](), dict[str, str]()
    for i, name in enumerate(clips.names):
        try:
            if (first := seen.setdefault(clips.content(i), name)) != name:
                raise InputError(f"{name} is a copy of {first}.")
            key = f"{encoder.key} {clips.content(i)}"
            if (features := cache.get(key)) is None:
                features = cache.put(key, encode_frames(clips.read(i), encoder))
            if len(features) < length:
                raise InputError(f"{name} has {len(features)} frames, but {length} are needed.")
            found[name] = features
        except CacheError:
            raise
        except InputError as error:
            faults[name] = str(error)
            if on_error == "refuse":
                break
    tell_faults(faults, len(clips), "video", clips.source, on_error)
    return Encoded(clips.source, list(found), list(found.values()), faults)


def encode_frames(frames: np.ndarray, encoder: Encoder) -> np.ndarray:
    """Encode 8-bit frames (T, C, H, W) as vectors (T, E), float32."""
    with torch.no_grad():
        return encoder.encode(to_tensor(frames)).float().numpy()
