"""PSNR against steps, energies against errors, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import spearmanr
from small_images import image_dit, image_ebt, noisy_images, smooth_images

from ebt.errors import InputError
from ebt.files import finite
from ebt.problems.images.metrics import energy_errors, image_curve, patch_errors, psnr, square_errors, ssim

CLEAN = smooth_images(5)
NOISY = noisy_images(CLEAN)


def test_psnr_is_that_of_eight_bit_pictures() -> None:
    image = torch.zeros(1, 3, 4, 4)
    assert psnr(image + 0.2, image).item() == pytest.approx(10 * math.log10(255**2 / 25.5**2), abs=1e-4)
    assert square_errors(image + 7, image).item() == pytest.approx(0.25)


def test_similarity_of_equal_and_of_tiny_images() -> None:
    assert ssim(CLEAN, CLEAN) == pytest.approx(1)
    assert ssim(NOISY, CLEAN) < 0.9  # type: ignore[operator]
    assert ssim(CLEAN[..., :8, :8], CLEAN[..., :8, :8]) is None


@pytest.mark.parametrize("batch_size", [2, 5])
def test_a_curve_has_the_quality_after_each_number_of_steps(batch_size: int) -> None:
    model = image_ebt()
    curve = image_curve(model, CLEAN, NOISY, [3, 1], batch_size=batch_size)
    thought = model.think(NOISY, steps=3)
    assert (curve.task, curve.kind, curve.rows) == ("images", "ebt", 5)
    for point, state, energy in zip(curve.points, thought.states[::2], thought.energies[1::2], strict=True):
        assert point.psnrs == pytest.approx(psnr(state, CLEAN).tolist())
        assert point.psnr == pytest.approx(psnr(state, CLEAN).mean().item())
        assert point.mse == pytest.approx(square_errors(state, CLEAN).mean().item())
        assert point.energy == pytest.approx(energy.sum(-1).mean().item())
        assert (point.forward, point.backward) == (point.steps, point.steps)
    assert curve.best().psnr == max(point.psnr for point in curve.points)
    assert finite(curve)["start_energy"] == pytest.approx(thought.energies[0].sum(-1).mean().item())


def test_the_curve_of_a_rival_counts_evaluations() -> None:
    model = image_dit()
    curve = image_curve(model, CLEAN, NOISY, [1, 4], level=0.1)
    assert [(point.forward, point.backward, point.energy) for point in curve.points] == [(1, 0, None), (4, 0, None)]
    assert curve.points[1].psnrs == pytest.approx(psnr(model.denoise(NOISY, 0.1, 4), CLEAN).tolist())


def test_a_single_image_has_no_error() -> None:
    assert image_curve(image_ebt(), CLEAN[:1], NOISY[:1], [1]).points[0].psnr_error is None


def test_errors_are_those_of_single_patches() -> None:
    states = torch.stack((CLEAN, CLEAN))
    states[1, 0, :, 4:8, 12:16] += 0.5
    errors = patch_errors(states, CLEAN, 4)
    assert errors.shape == (2, 5, 16)
    assert errors[1, 0, 7].item() == pytest.approx(0.5)
    assert errors.count_nonzero() == 1


def test_ranks_are_those_of_all_patches_and_steps() -> None:
    model = image_ebt()
    result = energy_errors(model, CLEAN, NOISY, 2, batch_size=2)
    thought = model.think(NOISY, steps=2)
    errors = patch_errors(torch.stack([thought.start, *thought.states]), CLEAN, 4)
    expected = spearmanr(thought.energies.flatten(), errors.flatten()).statistic
    assert result.spearman == pytest.approx(expected, abs=1e-5)
    assert result.by_step[1] == pytest.approx(spearmanr(thought.energies[1].flatten(), errors[1].flatten()).statistic, abs=1e-5)
    assert len(result.energies) == len(result.errors) == len(result.steps) == 5 * 16 * 3


def test_no_images_and_no_steps_are_refused() -> None:
    with pytest.raises(InputError, match="give one or more"):
        image_curve(image_ebt(), CLEAN[:0], NOISY[:0], [1])
    with pytest.raises(InputError, match="of the same shape"):
        image_curve(image_ebt(), CLEAN, NOISY[:2], [1])
    with pytest.raises(InputError, match=r"steps is \[0\]"):
        image_curve(image_ebt(), CLEAN, NOISY, [0])
