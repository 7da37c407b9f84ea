"""Encoded videos on disk: made once, memory-mapped, each file whole or absent.

Letters: T frames, E numbers of an encoded frame.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ebt.errors import InputError
from ebt.problems.images.sources import to_tensor
from ebt.problems.video.clips import Clips
from ebt.problems.video.encoders import Encoder

NAMED = 10
"""So many skipped videos are named in a warning."""
Progress = Callable[[int, int], None]
"""Called with the videos done, and all of them."""


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
        path = self.path(key)
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False) if path.is_file() else None
        except (OSError, ValueError, EOFError):  # cut short by copying, or no array at all
            return None

    def put(self, key: str, array: np.ndarray) -> np.ndarray:
        """Write an array, and give it back memory-mapped.

        Raises:
            CacheError: it cannot be written.
        """
        path = self.path(key)
        fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with fresh.open("wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        except OSError as error:
            raise CacheError(
                f"the cache {self.folder} cannot be written ({error}): free some space, or name another folder."
            ) from error
        finally:
            with suppress(OSError):
                fresh.unlink(missing_ok=True)
        found = self.get(key)
        assert found is not None
        return found


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


def encode_clips(clips: Clips, encoder: Encoder, cache: FeatureCache, length: int, progress: Progress | None = None) -> Encoded:
    """Encode videos, or take their encodings from the cache. Those that cannot be used are skipped with one warning.

    Args:
        clips: the videos.
        encoder: the frozen encoder.
        cache: where encodings are kept.
        length: the fewest frames that are of use.
        progress: called after each video.

    Raises:
        InputError: no video can be used.
    """
    names, features, skipped, seen = list[str](), list[np.ndarray](), dict[str, str](), dict[str, str]()
    for i, name in enumerate(clips.names):
        try:
            if (first := seen.setdefault(clips.content(i), name)) != name:
                raise InputError(f"{name} is a copy of {first}.")
            found = _encoded(clips, i, encoder, cache)
            if len(found) < length:
                raise InputError(f"{name} has {len(found)} frames, {length} are needed.")
            names.append(name)
            features.append(found)
        except CacheError:
            raise
        except InputError as error:
            skipped[name] = str(error)
        if progress:
            progress(i + 1, len(clips))
    told = " ".join(list(skipped.values())[:NAMED]) + (" ..." if len(skipped) > NAMED else "")
    if not names:
        raise InputError(
            f"none of the {len(clips)} video(s) of {clips.source} can be used: {told} Give others, or ask for fewer frames."
        )
    if skipped:
        warnings.warn(f"{len(skipped)} of {len(clips)} videos of {clips.source} are skipped: {told}", stacklevel=2)
    return Encoded(clips.source, names, features, skipped)


def _encoded(clips: Clips, index: int, encoder: Encoder, cache: FeatureCache) -> np.ndarray:
    key = f"{encoder.key} {clips.content(index)}"
    found = cache.get(key)
    if found is None:
        found = cache.put(key, encode_frames(clips.read(index), encoder))
    return found


def encode_frames(frames: np.ndarray, encoder: Encoder) -> np.ndarray:
    """Vectors (T, E), float32, of 8-bit frames (T, C, H, W)."""
    with torch.no_grad():
        return encoder.encode(to_tensor(frames)).float().numpy()
