"""Encoded videos on disk: made once, memory-mapped, each file whole or absent.

Letters: T frames, E numbers of an encoded frame.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ebt.errors import InputError
from ebt.files import write_whole
from ebt.problems.images.sources import OnError, tell_faults, to_tensor
from ebt.problems.video.clips import Clips
from ebt.problems.video.encoders import Encoder


def default_cache() -> Path:
    """``ebt`` in the user's folder for caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ebt" / "frames"


class CacheError(InputError):
    """The cache cannot be written."""


class FeatureCache:
    """Arrays by key, a file each.

    An array is written beside its file, which it then replaces: what was cut short is never taken for an array.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = default_cache() if folder is None else Path(folder).expanduser()

    def path(self, key: str) -> Path:
        """The file of a key."""
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.npy"

    def get(self, key: str) -> np.ndarray | None:
        """The array of a key, memory-mapped; None if there is none, or its file is damaged."""
        try:
            return _mapped(self.path(key))
        except (OSError, ValueError, EOFError):  # absent, cut short by copying, or no array at all
            return None

    def put(self, key: str, array: np.ndarray) -> np.ndarray:
        """Write an array, and give it back memory-mapped.

        Raises:
            CacheError: it cannot be written.
        """
        path = self.path(key)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with write_whole(path) as file:
                np.save(file, array, allow_pickle=False)
            return _mapped(path)
        except OSError as error:
            raise CacheError(f"the cache {self.folder} cannot be written ({error}): make room, or name another.") from error


def _mapped(path: Path) -> np.ndarray:
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


@dataclass(frozen=True)
class Encoded:
    """Encoded videos."""

    source: str
    names: Sequence[str]
    features: Sequence[np.ndarray]
    """(T, E) each."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Videos that cannot be used, with the reason."""

    def __len__(self) -> int:
        return len(self.names)

    def part(self, indices: Sequence[int]) -> Encoded:
        """Some of them."""
        return Encoded(self.source, [self.names[i] for i in indices], [self.features[i] for i in indices], self.skipped)

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes are sent the names of files, not what is in them."""
        return {**self.__dict__, "features": [getattr(array, "filename", array) for array in self.features]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        features = [array if isinstance(array, np.ndarray) else _mapped(array) for array in state["features"]]
        self.__dict__.update(state, features=features)


def encode_clips(clips: Clips, encoder: Encoder, cache: FeatureCache, length: int, on_error: OnError = "skip") -> Encoded:
    """Encode videos, or take their encodings from the cache.

    Args:
        clips: the videos.
        encoder: the frozen encoder.
        cache: where encodings are kept.
        length: the fewest frames that are of use.
        on_error: those that cannot be used are skipped with one warning ("skip"), or an error ("refuse").

    Raises:
        InputError: no video can be used; with "refuse", one cannot.
    """
    found, faults, seen = dict[str, np.ndarray](), dict[str, str](), dict[str, str]()
    for i, name in enumerate(clips.names):
        try:
            if (first := seen.setdefault(clips.content(i), name)) != name:
                raise InputError(f"{name} is a copy of {first}.")
            features = _encoded(clips, i, encoder, cache)
            if len(features) < length:
                raise InputError(f"{name} has {len(features)} frames, {length} are needed.")
            found[name] = features
        except CacheError:
            raise
        except InputError as error:
            faults[name] = str(error)
            if on_error == "refuse":
                break
    tell_faults(faults, len(clips), "video", clips.source, on_error)
    return Encoded(clips.source, list(found), list(found.values()), faults)


def _encoded(clips: Clips, index: int, encoder: Encoder, cache: FeatureCache) -> np.ndarray:
    key = f"{encoder.key} {clips.content(index)}"
    found = cache.get(key)
    return cache.put(key, encode_frames(clips.read(index), encoder)) if found is None else found


def encode_frames(frames: np.ndarray, encoder: Encoder) -> np.ndarray:
    """Vectors (T, E), float32, of 8-bit frames (T, C, H, W)."""
    with torch.no_grad():
        return encoder.encode(to_tensor(frames)).float().numpy()
