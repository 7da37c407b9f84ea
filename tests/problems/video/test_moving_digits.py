"""Moving digits: the same clip every time, walls, splits without a common image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebt.errors import InputError
from ebt.problems.video.moving_digits import SIDE, MovingDigits, bounce, digit_images


def test_splits_share_no_image() -> None:
    keys = {split: {image.tobytes() for image in digits.images} for split, digits in digit_images().items()}
    assert [len(part) for part in keys.values()] == [1258, 270, 269]
    assert len(set.union(*keys.values())) == 1797


@given(st.integers(0, 10), st.integers(1, 3), st.integers(1, 6), st.integers(0, 1000))
def test_digits_stay_inside_and_move_by_their_speed(room: int, digits: int, speed: int, index: int) -> None:
    if speed > room:
        return
    clip = MovingDigits(size=SIDE + room, digits=digits, speeds=(speed,)).clip(index, 12)
    assert clip.places.shape == (12, digits, 2)
    assert clip.places.min() >= 0
    assert clip.places.max() <= room
    assert np.abs(np.diff(clip.places, axis=0)).max() <= speed


def test_a_ball_turns_around_at_the_walls() -> None:
    assert bounce(np.array([3, 4, 5, 6, 9, 10, -1, -5]), 4).tolist() == [3, 4, 3, 2, 1, 2, 1, 3]


def test_what_is_seen_are_the_digits_at_their_places() -> None:
    digits = MovingDigits("test", size=20, digits=1)
    clip, source = digits.clip(3, 6), digit_images()["test"]
    for frame, ((row, column),) in zip(clip.frames[:, 0], clip.places, strict=True):
        crop = frame[row : row + SIDE, column : column + SIDE]
        known = (source.images == crop).all((1, 2))
        assert source.labels[known].tolist() == clip.labels.tolist()
        assert frame.sum() == crop.sum()


def test_a_clip_follows_seed_split_epoch_and_index_and_not_its_length() -> None:
    digits = MovingDigits(seed=1)
    clip = digits.clip(5, 9, epoch=2)
    assert np.array_equal(clip.frames, MovingDigits(seed=1).clip(5, 30, epoch=2).frames[:9])
    others = [
        digits.clip(6, 9, 2),
        digits.clip(5, 9, 3),
        MovingDigits(seed=2).clip(5, 9, 2),
        MovingDigits("test", seed=1).clip(5, 9, 2),
    ]
    assert not any(np.array_equal(clip.frames, other.frames) for other in others)


def test_the_last_digit_may_arrive_late() -> None:
    clips = [MovingDigits(arrival=0.5).clip(i, 14) for i in range(100)]
    late = [clip for clip in clips if clip.arrival]
    assert 30 < len(late) < 70
    for clip in late:
        seen = clip.frames.any((1, 2, 3))
        assert seen.tolist() == [False] * clip.arrival + [True] * (14 - clip.arrival)
        assert 2 <= clip.arrival <= 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"digits": 0}, "at least 1 digit"),
        ({"arrival": 1.5}, "a share from 0 to 1"),
        ({"speeds": ()}, "Give speeds from 1"),
        ({"speeds": (0,)}, "Give speeds from 1"),
        ({"size": 10, "speeds": (3,)}, "have 2 to move in"),
        ({"size": 8}, "have 0 to move in"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MovingDigits(**settings)
