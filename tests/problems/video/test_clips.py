"""Videos: containers, frames at regular times, what cannot be read."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from small_videos import clip_folder, ramp

from ebt.errors import InputError
from ebt.problems.video.clips import open_videos, write_video


def greys(frames: np.ndarray) -> list[int]:
    """The mean grey of each frame, in tens."""
    return frames.mean((1, 2, 3)).round(-1).astype(int).tolist()


def encode(
    frames: np.ndarray, path: Path, options: dict[str, str] | None = None, aspect: Fraction | None = None, codec: str = "mpeg4"
) -> None:
    """A video of four frames a second."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=4)
        colours = "rgb8" if codec == "gif" else "yuv420p"
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = *frames.shape[1:3], colours, 1_000_000
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".mov", ".gif"])
def test_any_container_is_read(suffix: str, tmp_path: Path) -> None:
    if suffix == ".gif":
        pages = [Image.fromarray(frame) for frame in ramp(5)]
        pages[0].save(tmp_path / "a.gif", save_all=True, append_images=pages[1:], duration=250)
    else:
        write_video(ramp(5), tmp_path / f"a{suffix}", 0.25)
    clips = open_videos(str(tmp_path), 16)
    frames = clips.read(0)
    assert frames.shape == (5, 3, 16, 16)
    assert frames.dtype == np.uint8
    assert greys(frames) == [20, 30, 40, 50, 60]


@pytest.mark.parametrize(
    ("shown", "seconds", "expected"),
    [(0.05, 0.25, [20, 70, 120]), (0.1, 0.25, [20, 40, 70, 90, 120]), (0.5, 0.25, [20, 20, 30, 30, 40]), (0.25, 0.5, [20, 40])],
)
def test_frames_are_those_seen_at_regular_times(shown: float, seconds: float, expected: list[int], tmp_path: Path) -> None:
    count = {0.05: 11, 0.1: 11, 0.5: 3, 0.25: 4}[shown]
    write_video(ramp(count), tmp_path / "a.mp4", shown)
    assert greys(open_videos(str(tmp_path / "a.mp4"), 8, 1, seconds).read(0)) == expected


def test_the_middle_square_is_taken(tmp_path: Path) -> None:
    frames = ramp(2, 24, 48).copy()
    frames[:, :, :12] = frames[:, :, 36:] = 250
    write_video(frames, tmp_path / "a.mp4", 0.25)
    assert greys(open_videos(str(tmp_path), 24).read(0)) == [20, 30]


def test_folders_are_sorted_and_hidden_and_other_files_left_out(tmp_path: Path) -> None:
    clip_folder(tmp_path / "b", 2)
    clip_folder(tmp_path / ".hidden", 1)
    (tmp_path / "notes.txt").write_text("no video")
    clips = open_videos(str(tmp_path), 8)
    assert [Path(name).name for name in clips.names] == ["0.mp4", "1.mp4"]


def test_the_content_changes_with_the_file_and_how_it_is_read(tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "a", 2)
    told = [open_videos(folder, 8).content(0), open_videos(folder, 8).content(1), open_videos(folder, 9).content(0)]
    told += [open_videos(folder, 8, 1).content(0), open_videos(folder, 8, 3, 0.5).content(0)]
    assert len(set(told)) == 5
    (tmp_path / "copy.mp4").write_bytes((tmp_path / "a" / "0.mp4").read_bytes())
    assert open_videos(str(tmp_path / "copy.mp4"), 8).content(0) == told[0]


def jpeg(size: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), "grey").save(buffer, "JPEG")
    return buffer.getvalue()


def test_what_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"not a video" * 100)
    (tmp_path / "b.mjpeg").write_bytes(jpeg(16) * 3 + jpeg(32) * 3)
    (tmp_path / "c.mp4").touch()
    (tmp_path / "d.txt").write_text("a line of text\n" * 9999)  # which is not a terminal's output, shown as a video
    with pytest.raises(InputError, match=r"d\.txt has no video stream"):
        open_videos(str(tmp_path / "d.txt"), 8).read(0)
    clips = open_videos(str(tmp_path), 8)
    for index, message in enumerate(("a.mp4 cannot be read as a video", "changes its size from 16 x 16 to 32 x 32", "c.mp4")):
        with pytest.raises(InputError, match=message):
            clips.read(index)


@pytest.mark.parametrize(
    ("suffix", "codec", "options"),
    [
        ("mp4", "mpeg4", {}),
        ("mp4", "mpeg4", {"movflags": "faststart"}),
        ("mkv", "mpeg4", {}),
        ("webm", "libvpx-vp9", {}),
        ("avi", "mpeg4", {}),
        ("flv", "flv", {}),
        ("gif", "gif", {}),
    ],
)
def test_videos_cut_short_are_told(suffix: str, codec: str, options: dict[str, str], tmp_path: Path) -> None:
    whole = tmp_path / f"whole.{suffix}"
    frames = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    encode(frames, whole, options=options, codec=codec)
    assert len(open_videos(str(whole), 8).read(0)) == 40
    for share in (0.3, 0.5, 0.8):
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(whole.read_bytes()[: round(share * whole.stat().st_size)])
        with pytest.raises(InputError, match=rf"cut\.{suffix} .*cut short"):
            open_videos(str(cut), 8).read(0)


@pytest.mark.parametrize(("aspect", "height", "width"), [("2", 32, 32), ("1/2", 32, 32), ("4/3", 48, 64), ("1", 32, 32)])
def test_pixels_that_are_not_square_give_the_shown_picture(aspect: str, height: int, width: int, tmp_path: Path) -> None:
    """A disc is round on the screen, and so it is in the frames."""
    wide = float(Fraction(aspect))
    rows, columns = np.mgrid[:height, :width] + 0.5
    far = np.hypot(rows - height / 2, (columns - width / 2) * wide)
    frame = np.where(far < min(height, width * wide) / 4, 220, 20)[..., None].repeat(3, -1).astype(np.uint8)
    encode(np.stack([frame] * 2), tmp_path / "a.mp4", aspect=Fraction(aspect))
    seen = open_videos(str(tmp_path / "a.mp4"), 32, 1).read(0)[0, 0] > 120
    assert seen.any(1).sum() == pytest.approx(16, abs=1.5)
    assert seen.any(0).sum() == pytest.approx(16, abs=1.5)


def test_videos_that_were_joined_go_on_after_each_other(tmp_path: Path) -> None:
    """Their times begin anew with each part."""
    for i in range(2):
        write_video(ramp(4, first=i * 4), tmp_path / f"{i}.ts", 0.25)
    parts = [(tmp_path / f"{i}.ts").read_bytes() for i in range(2)]
    (tmp_path / "joined.ts").write_bytes(b"".join(parts))
    found = greys(open_videos(str(tmp_path / "joined.ts"), 16).read(0))
    assert found == [20, 30, 40, 50, 60, 70, 80, 90]


def test_a_leap_of_times_is_no_video(tmp_path: Path) -> None:
    """Neither a day of one still nor as many copies of it."""
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        for i, frame in enumerate(ramp(4)):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = i + (i > 1) * 4 * 86400, Fraction(1, 4)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    with pytest.raises(InputError, match=r"a\.mkv has no frame for 86400 s after 0\.25 s: cut it there"):
        open_videos(str(tmp_path / "a.mkv"), 8).read(0)


def test_nothing_and_no_videos_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no videos"):
        open_videos(str(tmp_path), 8)
    with pytest.raises(InputError, match="nowhere does not exist"):
        open_videos("nowhere", 8)
    with pytest.raises(InputError, match="cannot be written as a video"):
        write_video(ramp(2), tmp_path / "no" / "a.mp4", 0.25)
