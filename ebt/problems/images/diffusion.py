"""Noise schedules, and the training loss of a diffusion model that learns its variance. Samplers are those of ``diffusers``.

Letters: T noise levels, B rows, C channels, H x W pixels. ``kept`` is the share of the signal's power left at noise level t
(alpha bar). ``t`` is a level (B,), counted from 0.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ebt.errors import InputError


class NoiseSchedule:
    """Noise levels: ``x[t] = sqrt(kept[t]) x + sqrt(1 - kept[t]) noise``, in double precision.

    ``betas`` (T,): power of the noise added by each level. ``least_log_variance`` (T,): logarithm of the variance of x[t-1]
    given x[t] and x. At the first level, where the variance is zero, it is that of the second.
    """

    def __init__(self, betas: Tensor) -> None:
        self.betas = betas.double()
        self.kept = (1 - self.betas).cumprod(0)
        self._before = torch.cat((self.kept.new_ones(1), self.kept[:-1]))
        variance = self.betas * (1 - self._before) / (1 - self.kept)
        self.least_log_variance = torch.cat((variance[1:2], variance[1:])).log()

    @classmethod
    def linear(cls, levels: int = 1000) -> NoiseSchedule:
        """Return the linear schedule (Ho et al. 2020), with the same total noise for any number of levels.

        Raises:
            InputError: If there are too few levels.
        """
        if levels < 21:
            raise InputError(f"noise levels {levels}: give at least 21 for the linear schedule")
        scale = 1000 / levels
        return cls(torch.linspace(scale * 1e-4, scale * 0.02, levels, dtype=torch.float64))

    def level(self, share: float) -> int:
        """Convert a share of the schedule to a level t: 0.1 of 1000 levels is level 99.

        Raises:
            InputError: If the share is outside (0, 1].
        """
        if not 0 < share <= 1:
            raise InputError(f"noise level {share}: give a share of the schedule, above 0 and at most 1, for example 0.1")
        return max(0, round(share * len(self.betas)) - 1)

    def respaced(self, levels: Tensor) -> NoiseSchedule:
        """Return the schedule that visits only some ``levels`` (n,), in ascending order, with the same noise at each."""
        kept = self.kept[levels]
        return NoiseSchedule(1 - kept / torch.cat((kept.new_ones(1), kept[:-1])))

    def noised(self, image: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return images (B, C, H, W) at noise levels t (B,)."""
        return _at(self.kept.sqrt(), t, image) * image + _at((1 - self.kept).sqrt(), t, image) * noise

    def noisy(self, images: Tensor, level: float, seed: int = 0) -> Tensor:
        """Return images (B, C, H, W) at one noise level, a share of the schedule, with noise drawn from a seed."""
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed), dtype=images.dtype)
        return self.noised(images, noise, torch.full((len(images),), self.level(level)))

    def clean(self, noisy: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the images (B, C, H, W) implied by a predicted noise."""
        return _at((1 / self.kept).sqrt(), t, noisy) * noisy - _at((1 / self.kept - 1).sqrt(), t, noisy) * noise

    def loss(self, output: Tensor, image: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Squared error of the predicted noise, and the variational bound in bits, which trains the variance only; both (B,).

        Nichol and Dhariwal (2021), section 3.1. The bound is the likelihood of the 8-bit image at the first level, and the
        divergence of the two normal distributions of the step at the others.

        Args:
            output: Predicted noise and variance (B, 2C, H, W). The variance is a position on the logarithmic scale, from the
                smallest variance (-1) to the largest (1).
            image: Clean images (B, C, H, W).
            noise: Standard normal noise, as in the network's input ``noised(image, noise, t)``.
            t: Levels (B,).
        """
        predicted, place = output.chunk(2, 1)
        noisy, share = self.noised(image, noise, t), (place + 1) / 2
        least = _at(self.least_log_variance, t, image)
        log_variance = share * _at(self.betas.log(), t, image) + (1 - share) * least
        mean = self._step(self.clean(noisy, predicted.detach(), t), noisy, t)
        divergence = _divergence(self._step(image, noisy, t), least, mean, log_variance)
        first = (t == 0).view(-1, 1, 1, 1)
        bound = torch.where(first, -_pixel_log_likelihood(image, mean, log_variance), divergence)
        return (noise - predicted).square().flatten(1).mean(1), bound.flatten(1).mean(1) / math.log(2)

    def _step(self, image: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """Mean of x[t-1] given x[t] and x."""
        clean = self.betas * self._before.sqrt() / (1 - self.kept)
        rest = (1 - self._before) * (1 - self.betas).sqrt() / (1 - self.kept)
        return _at(clean, t, image) * image + _at(rest, t, image) * noisy

    def sampler(self, kind: str = "ddim") -> Any:
        """Return the DDIM or DDPM scheduler of ``diffusers`` for this schedule, with a step per level and clipped images."""
        from diffusers import DDIMScheduler, DDPMScheduler  # imported late: it takes a second

        options = {"num_train_timesteps": len(self.betas), "trained_betas": self.betas.tolist(), "clip_sample": True}
        scheduler: Any = DDIMScheduler(**options) if kind == "ddim" else DDPMScheduler(**options, variance_type="learned_range")
        scheduler.set_timesteps(len(self.betas))
        # restore the schedule, which diffusers rounds to float32
        scheduler.betas, scheduler.alphas, scheduler.alphas_cumprod = self.betas, 1 - self.betas, self.kept
        return scheduler


def _at(values: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """Return values (T,) at levels t (B,), broadcastable to images."""
    return values.to(t.device)[t].to(like.dtype).view(-1, 1, 1, 1)


def _divergence(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of two normal distributions, in nats."""
    gap = log_variance - other_log_variance
    return (gap.exp() - gap - 1 + (mean - other_mean).square() * (-other_log_variance).exp()) / 2


def _pixel_log_likelihood(image: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log-likelihood of 8-bit pixels in [-1, 1] under a normal distribution. Its tails count as black and white."""
    off, precision = image - mean, (-log_variance / 2).exp()
    upper, lower = (_normal_cdf(precision * (off + sign / 255)) for sign in (1, -1))
    mass = torch.where(image < -0.999, upper, torch.where(image > 0.999, 1 - lower, upper - lower))
    return mass.clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    """Approximate the normal CDF as published diffusion models do."""
    return (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
