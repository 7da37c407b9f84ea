"""The cache: made once, keyed by content and encoder, whole or absent; videos that cannot be used are skipped and told."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from small_models import full_disk
from small_videos import autoencoder, clip_folder

from ebt.errors import InputError
from ebt.problems.video.clips import Clips, open_videos
from ebt.problems.video.encoders import CacheError, FeatureCache, default_cache, encode_clips, encode_frames, open_encoder

PATCHES = open_encoder("patches", 8, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return clip_folder(tmp_path_factory.mktemp("clips") / "all", 3)


def counted(clips: Clips) -> tuple[Clips, list[int]]:
    """The same videos, and a list of those that are read."""
    read: list[int] = []
    return Clips(clips.source, clips.names, lambda i: (read.append(i), clips.read(i))[1], clips.content), read


def test_a_video_is_encoded_once(folder: str, tmp_path: Path) -> None:
    cache, (clips, read) = FeatureCache(tmp_path / "cache"), counted(open_videos(folder, 8))
    first = encode_clips(clips, PATCHES, cache, 2)
    again = encode_clips(clips, PATCHES, FeatureCache(tmp_path / "cache"), 2)
    assert read == [0, 1, 2]
    for index, (one, other) in enumerate(zip(first.features, again.features, strict=True)):
        assert isinstance(other, np.memmap)
        assert np.array_equal(one, other)
        assert np.array_equal(one, encode_frames(clips.read(index), PATCHES))


def test_the_key_is_content_and_encoder(folder: str, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache")
    encode_clips(open_videos(folder, 8), PATCHES, cache, 2)
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    (moved / "0.mp4").rename(moved / "other name.mp4")
    clips, read = counted(open_videos(str(moved), 8))
    encode_clips(clips, PATCHES, cache, 2)
    assert read == []
    clips, read = counted(open_videos(str(moved), 8, seconds=0.5))
    encode_clips(clips, PATCHES, cache, 2)
    encode_clips(clips, open_encoder("patches:2", 8, 3), cache, 2)
    encode_clips(clips, open_encoder(autoencoder(tmp_path / "kl"), 8, 3), cache, 2)
    assert read == [0, 1, 2] * 3
    shutil.move(moved / "1.mp4", moved / "2.mp4")
    clips, read = counted(open_videos(str(moved), 8))
    encode_clips(clips, PATCHES, cache, 2)
    assert read == []  # what was seen before under another name


@pytest.mark.parametrize("left", [0, 50, 0.5, 0.99])
def test_a_torn_file_is_no_cache(left: float, tmp_path: Path) -> None:
    cache, array = FeatureCache(tmp_path), np.arange(3000.0).reshape(30, 100)
    cache.put("a", array)
    whole = cache.path("a").read_bytes()
    cache.path("a").write_bytes(whole[: left if isinstance(left, int) else round(left * len(whole))])
    assert cache.get("a") is None
    assert cache.get("b") is None
    assert np.array_equal(cache.put("a", array), array)
    found = cache.get("a")
    assert found is not None
    assert np.array_equal(found, array)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache")
    with full_disk(1000), pytest.raises(CacheError, match="cannot be written"):
        cache.put("a", np.zeros(10_000))
    assert list((tmp_path / "cache").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match="choose another"):
        FeatureCache(tmp_path / "file").put("a", np.zeros(1))


def test_videos_that_cannot_be_used_are_skipped_and_told(folder: str, tmp_path: Path) -> None:
    mixed = Path(shutil.copytree(folder, tmp_path / "mixed"))
    (mixed / "1.mp4").write_bytes(b"broken")
    clip_folder(mixed / "short", 1, frames=3)
    with pytest.warns(UserWarning, match=r"2 of 4 videos .* are skipped. The first: .*1\.mp4 cannot be read"):
        encoded = encode_clips(open_videos(str(mixed), 8), PATCHES, FeatureCache(tmp_path / "cache"), 5)
    assert [Path(name).name for name in encoded.names] == ["0.mp4", "2.mp4"]
    assert [Path(name).name for name in encoded.skipped] == ["1.mp4", "0.mp4"]
    assert list(encoded.skipped.values())[1].endswith("has 3 frames, but 5 are needed.")
    with pytest.raises(InputError, match=r"none of the 4 video\(s\) .* can be used"):
        encode_clips(open_videos(str(mixed), 8), PATCHES, FeatureCache(tmp_path / "cache"), 9)


def test_a_cache_that_cannot_be_written_is_no_reason_to_skip(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheError):
        encode_clips(open_videos(folder, 8), PATCHES, FeatureCache(tmp_path / "file"), 2)


def test_the_default_is_in_the_folder_for_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == FeatureCache().folder == tmp_path / "ebt" / "frames"
