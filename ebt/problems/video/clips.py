"""Videos of files and folders, read as square frames at regular times. Containers and codecs: whatever PyAV reads.

Letters: T frames, C channels, H x W pixels.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ebt.errors import InputError
from ebt.problems.images.sources import to_array, to_square

SUFFIXES = {
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m2ts", ".mts", ".ts", ".ogv", ".ogg", ".flv"),
    *(".wmv", ".asf", ".3gp", ".3g2", ".mjpeg", ".mjpg", ".mxf", ".vob", ".gif", ".y4m", ".nut", ".h264", ".hevc", ".ivf"),
}
"""What counts as a video in a folder; a file that is named itself may be called anything."""
LEAP = 60.0
"""Seconds without a frame: then a video is not one."""
LATE = 1e-3
"""Seconds by which a frame may come late."""
BIT_RATE = 4_000_000
"""Of written videos: enough for small pictures to stay sharp."""


@dataclass(frozen=True)
class Clips:
    """Videos that are read one by one."""

    source: str
    names: Sequence[str]
    read: Callable[[int], np.ndarray]
    """Frames (T, C, H, W), uint8; raises InputError, with the reason, for a video that cannot be used."""
    content: Callable[[int], str]
    """A text that changes with the frames that ``read`` gives."""

    def __len__(self) -> int:
        return len(self.names)

    def part(self, indices: Sequence[int]) -> Clips:
        """Some of them."""
        return Clips(
            self.source, [self.names[i] for i in indices], lambda i: self.read(indices[i]), lambda i: self.content(indices[i])
        )


def open_videos(source: str, size: int, channels: int = 3, seconds: float = 0.25) -> Clips:
    """The videos of a file, or of a folder, recursive, sorted by path.

    Args:
        source: a video, or a folder.
        size: height and width of the frames: the middle square of the video, resized.
        channels: 3, or 1 for grey.
        seconds: between two frames.

    Raises:
        InputError: there is no such source, no video in it, or PyAV is not installed.
    """
    import_av()
    path = Path(source).expanduser()
    files = video_files(path) if path.is_dir() else [path]
    if not path.exists():
        raise InputError(f"{source} does not exist: give a video or a folder of videos, or 'digits' for moving digits.")
    return Clips(
        source,
        [str(file) for file in files],
        lambda i: read_video(files[i], size, channels, seconds),
        lambda i: f"{file_hash(files[i])} {size} {channels} {seconds:g}",
    )


def video_files(folder: Path) -> list[Path]:
    """The videos of a folder, recursive, sorted by path.

    Raises:
        InputError: there is none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not found:
        raise InputError(f"{folder} holds no videos ({', '.join(sorted(SUFFIXES))}): name a folder that does.")
    return found


def read_video(path: Path, size: int, channels: int, seconds: float) -> np.ndarray:
    """What is seen every so many seconds of a video, (T, C, size, size), uint8.

    Raises:
        InputError: it cannot be read, has no frames, or its frames change their size.
    """
    av = import_av()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path} has no pictures.")
            frames = [_square(frame, path, size, channels) for frame in sampled(container, path, seconds)]
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read as a video ({error}).") from error
    if not frames:
        raise InputError(f"{path} has no frames.")
    return np.stack(frames)


def sampled(container: Any, path: Path, seconds: float) -> Iterator[Any]:
    """Of the frames of an open container those that are seen at 0, 1, 2, ... times ``seconds`` after the first.

    Where times go back, as in videos that were joined, the video goes on after its last frame.

    Raises:
        InputError: they change their size, or there is none for a long time.
    """
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    rate = float(stream.average_rate or 25)
    before, shape, first, last, count = None, None, 0.0, 0.0, 0
    for number, frame in enumerate(container.decode(stream)):
        time = frame.time if frame.time is not None else number / rate
        if shape is None:
            shape, first = (frame.width, frame.height), time
        elif time < last:
            first -= last + 1 / rate - time
        elif time - last > LEAP:
            raise InputError(f"{path} has no frame for {time - last:.0f} s after {last - first:.2f} s: cut it there.")
        last = time
        if (frame.width, frame.height) != shape:
            raise InputError(
                f"{path} changes its size from {shape[0]} x {shape[1]} to {frame.width} x {frame.height} pixels after "
                f"{time - first:.2f} s."
            )
        while before is not None and time - first > count * seconds + LATE:
            yield before
            count += 1
        before = frame
        if time - first >= count * seconds - LATE:
            yield before
            count += 1


def _square(frame: Any, path: Path, size: int, channels: int) -> np.ndarray:
    pixels = np.rot90(frame.to_ndarray(format="rgb24"), (getattr(frame, "rotation", 0) // 90) % 4)
    return to_array(to_square(Image.fromarray(np.ascontiguousarray(pixels)), size), str(path), channels)


def write_video(frames: np.ndarray, path: Path, seconds: float) -> None:
    """Write frames (T, H, W, 3), uint8, as a video, each shown for so many seconds. Odd sizes are cut by a pixel.

    Raises:
        InputError: it cannot be written.
    """
    av = import_av()
    height, width = (length - length % 2 for length in frames.shape[1:3])
    try:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=Fraction(1 / seconds).limit_denominator(1000))
            stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", BIT_RATE
            for frame in frames[:, :height, :width]:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
            container.mux(stream.encode())
    except (av.FFmpegError, OSError, ValueError) as error:
        raise InputError(f"{path} cannot be written as a video ({error}): choose another folder.") from error


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes.

    Raises:
        InputError: it cannot be read.
    """
    try:
        stat = path.stat()
        return _hash(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}).") from error


@functools.cache
def _hash(path: Path, size: int, changed: int) -> str:
    """Once for each state of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def import_av() -> Any:
    """PyAV.

    Raises:
        InputError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise InputError("reading and writing videos needs PyAV: pip install 'energy-based-transformers[video]'.") from error
    return av
