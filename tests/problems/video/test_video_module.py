"""Videos as batches: a function of seed and epoch, splits without a common video, encodings that are kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small_videos import autoencoder, clip_folder, dinov2

from ebt.errors import InputError
from ebt.problems.images.sources import to_tensor
from ebt.problems.video.data import VideoDataModule, held_out_frames

DIGITS: dict[str, Any] = {"size": 10, "context_length": 4, "clips": 12, "evaluation_clips": 6, "batch_size": 4}
DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "video"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Ten videos; video i begins with the grey 20 + 10 i."""
    return clip_folder(tmp_path_factory.mktemp("clips") / "all", 10)


def module(folder: str, tmp_path: Path, **settings: Any) -> VideoDataModule:
    own = {"size": 8, "channels": 3, "context_length": 4, "batch_size": 4, "windows": 2, "evaluation_windows": 3}
    return VideoDataModule(folder, **{**own, "fractions": (0.6, 0.2, 0.2), "cache": str(tmp_path / "cache"), **settings})


def epoch(data: VideoDataModule, number: int) -> torch.Tensor:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)
    return torch.cat([batch["frames"] for batch in loader])


def test_moving_digits_follow_seed_and_epoch() -> None:
    first = epoch(VideoDataModule(**DIGITS), 0)
    assert first.shape == (12, 5, 100)
    assert 0 == first.min() < first.max() <= 2
    assert torch.equal(first, epoch(VideoDataModule(**DIGITS), 0))
    assert not torch.equal(first, epoch(VideoDataModule(**DIGITS), 1))
    assert not torch.equal(first, epoch(VideoDataModule(**DIGITS, seed=1), 0))


def test_a_part_of_the_clips_is_the_same_in_all_epochs() -> None:
    def clips(seed: int, count: int, number: int = 0) -> set[bytes]:
        return {row.numpy().tobytes() for row in epoch(VideoDataModule(**DIGITS, seed=seed, train_examples=count), number)}

    assert clips(0, 4) == clips(0, 4, 1) < clips(0, 8)
    assert len(clips(0, 4)) == 4
    assert clips(0, 4) != clips(1, 4)
    with pytest.raises(InputError, match="train_examples=99, and there are"):
        VideoDataModule(**DIGITS, train_examples=99).train_dataloader()
    with pytest.raises(InputError, match="train_examples=0: give at least 1"):
        VideoDataModule(**DIGITS, train_examples=0)


def test_evaluation_digits_do_not_depend_on_the_seed() -> None:
    one, other = VideoDataModule(**DIGITS), VideoDataModule(**DIGITS, seed=1)
    assert one.test_names == ["digits", "shifted"]
    loaders = [[data.val_dataloader(), *data.test_dataloader()] for data in (one, other)]
    batches = [[next(iter(loader))["frames"] for loader in each] for each in loaders]  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))
    assert not torch.equal(batches[0][1], batches[0][2])
    assert (one.digits["shifted"].digits, one.digits["shifted"].speeds) == (2, (2,))
    assert one.statistics()["clips"] == {"train": 12, "validation": 6, "digits": 6, "shifted": 6}


def test_stretches_lie_in_their_video(folder: str, tmp_path: Path) -> None:
    data = module(folder, tmp_path)
    frames = epoch(data, 0)
    assert frames.shape == (12, 5, 192)
    steps = ((frames.mean(-1) + 1) * 12.75).round().diff(dim=1)
    assert (steps == 1).all()  # each frame is one grey lighter
    assert torch.equal(frames, epoch(module(folder, tmp_path), 0))
    assert not torch.equal(frames, epoch(module(folder, tmp_path), 1))


def test_splits_share_no_video_and_evaluation_is_spread_evenly(folder: str, tmp_path: Path) -> None:
    data = module(folder, tmp_path)
    data.prepare()
    names = [set(videos.names) for videos in data.sets.values()]
    assert [len(part) for part in names] == [6, 2, 2]
    assert len(set.union(*names)) == 10
    (loader,) = data.test_dataloader()
    frames = torch.cat([batch["frames"] for batch in loader])
    greys = ((frames.mean((1, 2)) + 1) * 12.75).view(2, 3)
    assert (greys.diff(dim=1) > 0.5).all()  # from the first to the last stretch of 8 - 4 frames
    assert data.statistics()["videos"] == {"train": 6, "validation": 2, "test": 2}
    assert data.statistics()["frames"]["train"] == 48
    assert data.test_names == []


def test_own_sources(folder: str, tmp_path: Path) -> None:
    validation, test = (clip_folder(tmp_path / name, 2, first=first) for name, first in (("validation", 11), ("test", 14)))
    data = module(folder, tmp_path, validation_source=validation, test_source=test)
    data.prepare()
    assert {split: len(videos) for split, videos in data.sets.items()} == {"test": 2, "train": 10, "validation": 2}


def test_copies_are_used_once_and_never_on_both_sides(folder: str, tmp_path: Path) -> None:
    copy = Path(clip_folder(tmp_path / "more", 2, first=17))
    shutil.copy(copy / "0.mp4", copy / "again.mp4")
    data = module(str(copy), tmp_path, fractions=(1, 0, 0))
    with pytest.warns(UserWarning, match=r"again\.mp4 is a copy of .*0\.mp4"):
        data.prepare()
    assert data.statistics()["videos"] == {"train": 2}
    shutil.copy(Path(folder) / "3.mp4", copy / "other.mp4")
    with pytest.raises(InputError, match=r"other\.mp4 is a validation video and also the train video .*3\.mp4: remove one"):
        module(folder, tmp_path, validation_source=str(copy)).prepare()


def test_a_video_has_no_more_stretches_than_differ(tmp_path: Path) -> None:
    """8 and 6 frames have 4 and 2 windows of 5."""
    clips = Path(clip_folder(tmp_path / "clips", 1))
    clip_folder(clips / "short", 1, frames=6, first=40)
    data = module(str(clips), tmp_path, fractions=(0.5, 0.5, 0), windows=16, evaluation_windows=16)
    loaders: Any = data.train_dataloader(), data.val_dataloader()
    assert {len(loader.dataset) for loader in loaders} == {4, 2}
    frames = torch.stack([loaders[1].dataset[i]["frames"] for i in range(len(loaders[1].dataset))])
    assert len({row.numpy().tobytes() for row in frames}) == len(frames)


@pytest.mark.parametrize("make", [autoencoder, dinov2])
def test_what_a_network_makes_of_moving_digits_is_kept(make: Any, tmp_path: Path) -> None:
    settings = {**DIGITS, "size": 12, "encoder": make(tmp_path / "encoder"), "cache": str(tmp_path / "cache")}
    data = VideoDataModule(**settings)
    first = epoch(data, 0)
    assert len(list((tmp_path / "cache").iterdir())) == 12 + 3 * 6
    assert data.frame_dim == first.shape[-1]
    assert torch.equal(first[first[:, 0, 0].argsort()], (again := epoch(data, 1))[again[:, 0, 0].argsort()])
    clip = to_tensor(data.digits["digits"].clip(2, 5).frames)
    torch.testing.assert_close(data.test_dataloader()[0].dataset[2]["frames"], data.encoder.encode(clip))


def test_held_out_stretches_of_any_length(folder: str, tmp_path: Path) -> None:
    digits = VideoDataModule(**DIGITS)
    frames = held_out_frames(digits, "digits", 9, 3)
    assert frames.shape == (3, 9, 100)
    assert torch.equal(frames[:, :5], held_out_frames(digits, "digits", 5, 3))
    data = module(folder, tmp_path)
    assert held_out_frames(data, "test", 7, 3).shape == (3, 7, 192)
    with pytest.raises(InputError, match=r"no test video of .* has 9 frames"):
        held_out_frames(data, "test", 9, 3)
    with pytest.raises(InputError, match="the data have no digits videos"):
        held_out_frames(data, "digits", 5, 3)
    with pytest.raises(InputError, match="no set 'test'"):
        held_out_frames(digits, "test", 5, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"context_length": 0}, "must be at least 1"),
        ({"seconds": 0}, "seconds above 0"),
        ({"channels": 3}, "moving digits are grey"),
        ({"test_source": "x"}, "moving digits .* have their own"),
        ({"shifted": {"colour": 1}}, "shifted has colour"),
        ({"shifted": {"size": 32}}, "another size"),
        ({"speeds": (9,)}, "Give speeds from 1"),
        ({"fractions": (0.5, 0.1, 0.1)}, "cannot split"),
        ({"on_error": "ignore"}, "on_error is 'ignore'"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        VideoDataModule(**settings)


def test_videos_that_cannot_be_used_are_skipped_or_refused(folder: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "3.mp4").write_bytes((copy / "3.mp4").read_bytes()[:700])
    data = module(str(copy), tmp_path)
    with pytest.warns(UserWarning, match=rf"1 of 10 videos of {copy} are skipped\. The first: {copy}/3\.mp4 .*cut short"):
        data.prepare()
    assert list(data.statistics()["skipped"]) == [str(copy / "3.mp4")]
    with pytest.raises(InputError, match=r"3\.mp4 .*cut short"):
        module(str(copy), tmp_path, on_error="refuse").prepare()


def test_too_few_videos_are_refused(folder: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has 1 video\(s\), too few for train, validation, test"):
        module(str(Path(folder) / "0.mp4"), tmp_path).prepare()
    with pytest.raises(InputError, match="There are no test videos"):
        module(folder, tmp_path, fractions=(1, 0, 0)).test_dataloader()


@pytest.mark.skipif(not DATA.exists(), reason="needs the benchmark data beside the checkout: shared/data/video")
def test_real_clips_are_decoded_and_cached(tmp_path: Path) -> None:
    data = VideoDataModule(
        str(DATA), size=16, channels=3, encoder="patches", fractions=(0.5, 0.5, 0.0), cache=str(tmp_path / "cache")
    )
    data.prepare()
    assert sorted(len(features) for videos in data.sets.values() for features in videos.features) == [40, 56]
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert len(files) == 2
    frames = next(iter(data.train_dataloader()))["frames"]
    assert frames.shape == (16, 17, 768)
    assert torch.isfinite(frames).all()
    again = VideoDataModule(
        str(DATA), size=16, channels=3, encoder="patches", fractions=(0.5, 0.5, 0.0), cache=data.cache.folder
    )
    again.prepare()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == files
