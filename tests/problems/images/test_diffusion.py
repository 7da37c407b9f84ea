"""Noise schedules and the loss of a diffusion model."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ebt.errors import InputError
from ebt.problems.images.diffusion import NoiseSchedule

SCHEDULE = NoiseSchedule.linear(100)


def random_images(rows: int = 2, channels: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(rows, channels, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("share", "kept", "std"), [(0.1, 0.898, 0.32), (0.2, 0.66, 0.58)])
def test_noise_levels_of_the_linear_schedule(share: float, kept: float, std: float) -> None:
    schedule = NoiseSchedule.linear()
    t = schedule.level(share)
    assert t == round(1000 * share) - 1
    assert schedule.kept[t].item() == pytest.approx(kept, abs=0.003)
    assert (1 - schedule.kept[t]).sqrt().item() == pytest.approx(std, abs=0.005)


@given(st.integers(21, 300))
def test_any_number_of_levels_ends_in_noise_alone(levels: int) -> None:
    kept = NoiseSchedule.linear(levels).kept
    assert (kept[1:] < kept[:-1]).all()
    assert kept[-1] < 1e-3


@given(st.sets(st.integers(0, 99), min_size=1))
def test_a_respaced_schedule_has_the_noise_of_the_levels_it_visits(visited: set[int]) -> None:
    levels = torch.tensor(sorted(visited))
    torch.testing.assert_close(SCHEDULE.respaced(levels).kept, SCHEDULE.kept[levels])


def test_noise_is_added_and_taken_away() -> None:
    image, noise, t = random_images(), random_images(seed=1), torch.tensor([3, 70])
    noisy = SCHEDULE.noised(image, noise, t)
    kept = SCHEDULE.kept[70]
    torch.testing.assert_close(noisy[1], kept.sqrt() * image[1] + (1 - kept).sqrt() * noise[1])
    torch.testing.assert_close(SCHEDULE.clean(noisy, noise, t), image)


def test_the_bound_is_the_divergence_of_two_normal_distributions() -> None:
    image, noise, t = random_images(), random_images(seed=1), torch.tensor([20, 70])
    output = random_images(channels=2, seed=2)
    square, bound = SCHEDULE.loss(output, image, noise, t)
    torch.testing.assert_close(square, (output[:, :1] - noise).square().mean((1, 2, 3)))
    for b, level in enumerate(t.tolist()):
        beta, kept, before = SCHEDULE.betas[level], SCHEDULE.kept[level], SCHEDULE.kept[level - 1]
        noisy = kept.sqrt() * image[b] + (1 - kept).sqrt() * noise[b]
        guess = (noisy - (1 - kept).sqrt() * output[b, 0]) / kept.sqrt()
        true, ours = (
            (before.sqrt() * beta * x + (1 - beta).sqrt() * (1 - before) * noisy) / (1 - kept) for x in (image[b], guess)
        )
        least = beta * (1 - before) / (1 - kept)
        share = (output[b, 1] + 1) / 2
        std = (share * beta.log() + (1 - share) * least.log()).div(2).exp()
        expected = kl_divergence(Normal(true, least.sqrt()), Normal(ours, std)).mean() / math.log(2)
        torch.testing.assert_close(bound[b], expected)


def test_at_the_first_level_the_bound_is_the_likelihood_of_eight_bits() -> None:
    """Summed over all 256 values, the likelihoods of a pixel are 1."""
    values = (torch.arange(256, dtype=torch.float64) / 127.5 - 1).view(256, 1, 1, 1)
    noise, t = torch.zeros_like(values), torch.zeros(256, dtype=torch.long)
    output = torch.zeros(256, 2, 1, 1, dtype=torch.float64)
    _, bound = SCHEDULE.loss(output, values, noise, t)
    assert (bound > 0).all()
    sharp = 1 - 2.0**-bound
    assert sharp.max() < 0.9


def test_the_bound_trains_the_variance_alone() -> None:
    output = random_images(channels=2, seed=2).requires_grad_()
    _, bound = SCHEDULE.loss(output, random_images(), random_images(seed=1), torch.tensor([0, 50]))
    (gradient,) = torch.autograd.grad(bound.sum(), output)
    assert not gradient[:, 0].any()
    assert gradient[:, 1].any()


def test_samplers_go_back_to_the_image_if_the_noise_is_known() -> None:
    image, noise = random_images().clamp(-1, 1), random_images(seed=1)
    sampler, x = SCHEDULE.sampler("ddim"), SCHEDULE.noised(image, noise, torch.tensor([99, 99]))
    for t in sampler.timesteps.tolist():
        kept = SCHEDULE.kept[t]
        known = (x - kept.sqrt() * image) / (1 - kept).sqrt()
        x = sampler.step(known, t, x).prev_sample
    torch.testing.assert_close(x, image, rtol=0, atol=1e-9)


def test_unknown_noise_levels_are_refused() -> None:
    for share in (0.0, 1.5, -0.1):
        with pytest.raises(InputError, match=f"noise level {share}"):
            SCHEDULE.level(share)
    with pytest.raises(InputError, match="noise levels 5"):
        NoiseSchedule.linear(5)
