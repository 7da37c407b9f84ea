"""Videos from files and folders, read as square frames at regular times. All containers and codecs of PyAV are supported.

Letters: T frames, C channels, H x W pixels.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ebt.errors import InputError, naming_extras
from ebt.problems.images.sources import files_in, to_array, to_square

SUFFIXES = {
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m2ts", ".mts", ".ts", ".ogv", ".ogg", ".flv"),
    *(".wmv", ".asf", ".3gp", ".3g2", ".mjpeg", ".mjpg", ".mxf", ".vob", ".gif", ".y4m", ".nut", ".h264", ".hevc", ".ivf"),
}
"""Suffixes of videos in a folder. A file that is given directly may have any suffix."""
LEAP = 60.0
"""Seconds without a frame that are an error."""
LATE = 1e-3
"""Seconds by which a frame may be late."""
MISSING = 0.05
"""Share of the duration in the header that may be missing, in addition to two frames. Otherwise the video is cut short."""
BIT_RATE = 4_000_000
"""Bit rate of written videos, high enough for small pictures to stay sharp."""
READING = 2
"""Version of the reader. It changes when files are read as different frames, and invalidates old encodings."""


@dataclass(frozen=True)
class Clips:
    """Videos that are read one by one."""

    source: str
    names: Sequence[str]
    read: Callable[[int], np.ndarray]
    """Returns frames (T, C, H, W), uint8. Raises ``InputError``, with the reason, if a video cannot be used."""
    content: Callable[[int], str]
    """Returns a text that identifies the frames returned by ``read``."""

    def __len__(self) -> int:
        return len(self.names)


def open_videos(source: str, size: int, channels: int = 3, seconds: float = 0.25) -> Clips:
    """Open a video file, or the videos of a folder, recursively, sorted by path.

    Args:
        source: A video or a folder.
        size: Height and width of the frames: the centre square of the video, resized.
        channels: 3, or 1 for grey.
        seconds: Time between two frames.

    Raises:
        InputError: If the source does not exist, has no videos, or PyAV is not installed.
    """
    import_av()
    path = Path(source).expanduser()
    if not path.exists():
        raise InputError(f"{source} does not exist: give a video or a folder of videos, or 'digits' for moving digits.")
    files = files_in(path, SUFFIXES, "video") if path.is_dir() else [path]
    way = f"{size} {channels} {seconds:g} {READING}"
    names = [str(file) for file in files]
    return Clips(source, names, lambda i: _read(files[i], size, channels, seconds), lambda i: f"{_hash(files[i])} {way}")


def _read(path: Path, size: int, channels: int, seconds: float) -> np.ndarray:
    """Read the frames of a video at multiples of ``seconds``, (T, C, size, size), uint8."""
    av = import_av()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video or container.format.name == "tty":  # a text file would be read as terminal output
                raise InputError(f"{path} has no video stream: it is not a video, or cut short.")
            aspect = float(container.streams.video[0].sample_aspect_ratio or 1)
            frames = [_square(frame, aspect, str(path), size, channels) for frame in sampled(timed(container, path), seconds)]
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read as a video ({error}): it is not one, or cut short.") from error
    if not frames:
        raise InputError(f"{path} has no frames: it is cut short.")
    return np.stack(frames)


def _hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    try:
        stat = path.stat()
        return _hash_of(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}): check its permissions.") from error


@functools.cache
def _hash_of(path: Path, size: int, changed: int) -> str:
    """SHA-256 of a file, cached by its size and time of change."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sampled(frames: Iterable[tuple[float, Any]], seconds: float) -> Iterator[Any]:
    """Select the frames shown at 0, 1, 2, ... times ``seconds`` from frames with their times."""
    before, count = None, 0
    for time, frame in frames:
        while before is not None and time > count * seconds + LATE:
            yield before
            count += 1
        before = frame
        if time >= count * seconds - LATE:
            yield before
            count += 1


def timed(container: Any, path: Path) -> Iterator[tuple[float, Any]]:
    """Yield the frames of an open container and their times in seconds since the first. ``InputError`` if it is unusable.

    Where times go back, as in concatenated videos, the video continues after its last frame.
    """
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    rate = float(stream.average_rate or 25)
    before, first, last = None, 0.0, 0.0
    for number, frame in enumerate(container.decode(stream)):
        time = frame.time if frame.time is not None else number / rate
        if before is None:
            before, first = frame, time
        elif time < last:
            first -= last + 1 / rate - time
        elif time - last > LEAP:
            raise InputError(f"{path} has no frame for {time - last:.0f} s after {last - first:.2f} s: cut it there.")
        if (frame.width, frame.height) != (before.width, before.height):
            sizes = f"{before.width} x {before.height} to {frame.width} x {frame.height} pixels"
            raise InputError(f"{path} changes its size from {sizes} after {time - first:.2f} s.")
        before, last = frame, time
        yield time - first, frame
    if before is not None:
        length = max(last, last - first) + max(1 / rate, float((before.duration or 0) * (before.time_base or 0)))
        promised = _promised(container, rate)
        ended = container.format.name != "gif" or path.read_bytes().rstrip(b"\0").endswith(b";")
        if not ended or before.is_corrupt or length < promised * (1 - MISSING) - 2 / rate:
            raise InputError(f"{path} is cut short: {length:.2f} s of {max(length, promised):.2f} s can be read.")


def _promised(container: Any, rate: float) -> float:
    """Duration in seconds according to the header of a container, 0 if it has none."""
    stream, kind = container.streams.video[0], container.format.name
    if kind == "avi":
        return float(stream.frames / rate)
    if not kind.startswith(("mov", "matroska", "flv", "asf")):  # the duration of others is that of their frames
        return 0.0
    times = [container.duration / import_av().time_base] if container.duration else []
    if stream.duration:
        times.append(float(stream.duration * stream.time_base))
    if told := stream.metadata.get("DURATION"):  # Matroska, for example 00:00:10.0
        times.append(sum(float(part) * 60**power for power, part in enumerate(reversed(told.split(":")))))
    return min(times, default=0.0)


def _square(frame: Any, aspect: float, name: str, size: int, channels: int) -> np.ndarray:
    turns = (getattr(frame, "rotation", 0) // 90) % 4
    pixels = np.rot90(frame.to_ndarray(format="rgb24"), turns)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    return to_array(to_square(picture, size, 1 / aspect if turns % 2 else aspect), name, channels)


def write_video(frames: np.ndarray, path: Path, seconds: float) -> None:
    """Write frames (T, H, W, 3), uint8, as a video, each shown for ``seconds``. Odd sizes are cropped by a pixel."""
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


def import_av() -> Any:
    """Import PyAV. Raises ``InputError`` if it is not installed."""
    with naming_extras():
        import av
    return av
