"""Frames: loss against steps and candidates, energies, rollouts, the reader of digits; against the models' own thinking."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from small_videos import CONTEXT, video_ebt, video_twin

from ebt.errors import InputError
from ebt.files import finite
from ebt.problems.video.metrics import frame_energies, frame_loss, repeat_loss, rollout, video_curve
from ebt.problems.video.moving_digits import DigitReader

FRAMES = torch.randn(5, CONTEXT + 1, 100, generator=torch.Generator().manual_seed(0)).double()


def test_losses_are_means_over_numbers() -> None:
    assert repeat_loss(FRAMES).shape == (5, CONTEXT)
    expected = F.smooth_l1_loss(FRAMES[2, 1], FRAMES[2, 2]).item()
    assert repeat_loss(FRAMES)[2, 1].item() == pytest.approx(expected)


def test_a_curve_has_the_loss_after_each_number_of_steps() -> None:
    model = video_ebt()
    curve = video_curve(model, FRAMES, [3, 1])
    thought = model.think(FRAMES[:, :-1], steps=3)
    assert (curve.task, curve.kind, curve.rows, curve.scored) == ("video", "ebt", 5, 20)
    for point, state, energy in zip(curve.points, thought.states[::2], thought.energies[1::2], strict=True):
        losses = frame_loss(state, FRAMES[:, 1:])
        assert point.losses == pytest.approx(losses.mean(1).tolist())
        assert point.loss == pytest.approx(losses.mean().item())
        assert point.energy == pytest.approx(energy.mean().item())
        assert point.spearman == pytest.approx(spearmanr(energy.flatten(), losses.flatten()).statistic)
    assert curve.best().loss == min(point.loss for point in curve.points)
    assert finite(curve)["start_energy"] == pytest.approx(thought.energies[0].mean().item())


@pytest.mark.parametrize("candidate_noise", [0.0, 0.3])
def test_candidates_are_chosen_frame_by_frame(candidate_noise: float) -> None:
    model = video_ebt(candidate_noise=candidate_noise)
    curve = video_curve(model, FRAMES, [2], [1, 3])
    won = model.think(FRAMES[:, :-1], steps=2, candidates=3)
    assert curve.at(2, 3).loss == pytest.approx(frame_loss(won.state, FRAMES[:, 1:]).mean().item())
    assert curve.at(2, 3).energy == pytest.approx(won.energies[-1].mean().item())
    assert curve.at(2, 3).energy < curve.at(2, 1).energy  # type: ignore[operator]
    assert (curve.at(2, 3).forward, curve.at(2, 3).backward) == (9, 6)


def test_frames_that_move_no_more_stop() -> None:
    model = video_ebt()
    stopped = video_curve(model, FRAMES, [1, 4], tolerance=1e9)
    assert [point.loss for point in stopped.points] == pytest.approx([video_curve(model, FRAMES, [1]).points[0].loss] * 2)
    assert [(point.forward, point.backward) for point in stopped.points] == [(1, 1), (1, 1)]
    free, some = video_curve(model, FRAMES, [4]), video_curve(model, FRAMES, [4], tolerance=1e-9)
    assert some.points[0].loss == pytest.approx(free.points[0].loss)


def test_the_twin_has_one_point() -> None:
    model = video_twin()
    (point,) = video_curve(model, FRAMES, [1, 2], batch_size=2).points
    with torch.no_grad():
        assert point.loss == pytest.approx(F.smooth_l1_loss(model(FRAMES[:, :-1]), FRAMES[:, 1:]).item())
    assert (point.energy, point.spearman, point.forward, point.backward) == (None, None, 1, 0)


@pytest.mark.parametrize("given", [2, CONTEXT + 3])
def test_a_rollout_feeds_predictions_back(given: int) -> None:
    model, twin = video_ebt(start_std=0.0), video_twin()
    context = torch.cat((FRAMES, FRAMES), 1)[:, :given]
    found, plain, seen, theirs = rollout(model, context, 3), rollout(twin, context, 3), context, context
    assert found.energies is not None
    assert found.energies.shape == (3, 5, 3)
    for ahead in range(3):
        thought = model.think(seen[:, -CONTEXT:])
        assert found.energies[:, :, ahead] == pytest.approx(thought.energies[:, :, -1])
        seen = torch.cat((seen, thought.state[:, -1:]), 1)
        with torch.no_grad():
            theirs = torch.cat((theirs, twin(theirs[:, -CONTEXT:])[:, -1:]), 1)
    torch.testing.assert_close(found.frames, seen[:, given:])
    torch.testing.assert_close(plain.frames, theirs[:, given:])
    assert plain.energies is None


def test_candidates_of_a_rollout_have_lower_energies() -> None:
    model = video_ebt()
    one, many = (rollout(model, FRAMES[:, :2], 1, candidates=count) for count in (1, 8))
    assert one.energies is not None
    assert many.energies is not None
    assert (many.energies[-1] <= one.energies[-1] + 1e-9).float().mean() > 0.5


def test_energies_of_frames_given_the_true_ones() -> None:
    model = video_ebt(start_std=0.0)
    frames = torch.cat((FRAMES, FRAMES[:, :3]), 1)
    found = frame_energies(model, frames, steps=2)
    assert (found.energies.shape, found.losses.shape) == ((3, 5, CONTEXT + 3), (2, 5, CONTEXT + 3))
    assert found.moves.shape == found.losses.shape
    for end in (2, CONTEXT, CONTEXT + 2):
        thought = model.think(frames[:, max(0, end - CONTEXT) : end], steps=2)
        torch.testing.assert_close(found.energies[..., end - 1], thought.energies[..., -1])
        losses = frame_loss(thought.state[:, -1], frames[:, end])
        torch.testing.assert_close(found.losses[-1, :, end - 1], losses)
        moved = (thought.states[1] - thought.states[0])[:, -1].square().mean(-1).sqrt()
        torch.testing.assert_close(found.moves[-1, :, end - 1], moved)
        context = frames[:, max(0, end - CONTEXT) : end]
        repeated = model.landscape(context)(model.geometry().view(context), 1)
        torch.testing.assert_close(found.repeats[:, end - 1], repeated[:, -1].double())
    assert found.spearman == pytest.approx(spearmanr(found.energies[-1].flatten(), found.losses[-1].flatten()).statistic)
    each = [
        spearmanr(energies, losses).statistic for energies, losses in zip(found.energies[-1], found.losses[-1], strict=True)
    ]
    assert found.spearman_within_clips == pytest.approx(np.mean(each))
    over = found.energies[-1] - found.repeats
    assert found.spearman_over_repeating == pytest.approx(spearmanr(over.flatten(), found.losses[-1].flatten()).statistic)
    assert found.spearman_of_moves == pytest.approx(spearmanr(found.moves[-1].flatten(), found.losses[-1].flatten()).statistic)


def test_frames_of_other_models_are_refused() -> None:
    for call in (lambda f: video_curve(video_ebt(), f, [1]), lambda f: rollout(video_twin(), f, 1)):
        with pytest.raises(InputError, match="those of the encoder"):
            call(FRAMES[..., :50])
        with pytest.raises(InputError, match="give one or more clips"):
            call(FRAMES[:0])
    with pytest.raises(InputError, match="0 frames ahead"):
        rollout(video_ebt(), FRAMES, 0)
    with pytest.raises(InputError, match=r"steps is \[0\]"):
        video_curve(video_ebt(), FRAMES, [0])


def test_digits_are_read_where_they_are() -> None:
    random = np.random.default_rng(0)
    kinds = random.integers(0, 256, (3, 8, 8), dtype=np.uint8)
    labels = np.repeat(np.arange(3), 10)
    noisy = (kinds[labels] * random.uniform(0.8, 1, (30, 8, 8))).astype(np.uint8)
    reader = DigitReader(noisy, labels)
    places = random.integers(0, 8, (6, 2, 2))
    places[:, 1] = (places[:, 0] + 8) % 16
    shown = random.integers(0, 3, (6, 2))
    frames = np.zeros((6, 24, 24), dtype=np.uint8)
    for frame, corners, digits in zip(frames, places, shown, strict=True):
        for (row, column), digit in zip(corners, digits, strict=True):
            frame[row : row + 8, column : column + 8] = kinds[digit]
    assert np.array_equal(reader.read(frames, places), shown)
