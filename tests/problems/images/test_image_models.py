"""The models of images: energies, thinking, and the Diffusion Transformer."""

from __future__ import annotations

import pytest
import torch
from hub_toys import make_dit, make_image_ebt
from torch import Tensor

from ebt.errors import InputError
from ebt.problems.images.configuration import EBTImagesConfig
from ebt.problems.images.diffusion import NoiseSchedule
from ebt.problems.images.models import EBTForImages


def images(rows: int = 2, height: int = 8, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(rows, 1, height, width, generator=generator, dtype=torch.float64) * 2 - 1


def test_an_energy_for_every_patch_and_their_mean_for_an_image() -> None:
    model, image = make_image_ebt(), images()
    energies = model.landscape(image)(image, 0)
    assert energies.shape == (2, 4)
    patch = model.network.encode(model.patches.positions.unsqueeze(0))(model.patches(image), 0)
    torch.testing.assert_close(model.geometry().per_prediction(energies), patch.mean(-1))


def test_every_pixel_reaches_every_patch_of_its_image() -> None:
    model, image = make_image_ebt(), images().requires_grad_()
    energies = model.landscape(image)(image, 0)
    for i in range(4):
        (gradient,) = torch.autograd.grad(energies[0, i], image, retain_graph=True)
        assert (gradient[0].abs() > 1e-12).all()
        assert not gradient[1].any()


def test_fresh_models_change_nothing() -> None:
    model = EBTForImages(EBTImagesConfig(num_channels=1, image_size=8, patch_size=4, layers=1, dim=16, heads=2))
    image = images().float()
    assert torch.equal(model.think(image).state, image)


def test_one_image_is_thought_about_as_in_a_batch() -> None:
    model, image = make_image_ebt(), images(3)
    whole = model.think(image, steps=3)
    alone = model.think(image[1:2], steps=3)
    assert alone.energies.shape == (4, 1, 4)
    torch.testing.assert_close(alone.state, whole.state[1:2])
    torch.testing.assert_close(alone.energies, whole.energies[:, 1:2])


def test_steps_descend_the_energy() -> None:
    model = make_image_ebt(step_size_scale=0.01)
    energies = model.think(images(), steps=20).energies.sum(-1)
    assert (energies[1:] < energies[:-1]).all()


def test_the_first_candidate_thinks_as_one_alone_and_others_explore() -> None:
    model = make_image_ebt(candidate_noise=0.1)
    alone = model.think(images(), steps=2)
    several = model.think(images(), steps=2, candidates=3, generator=torch.Generator().manual_seed(0))
    every = several.candidates
    assert every is not None
    torch.testing.assert_close(every.state[:2], alone.state)
    assert not torch.allclose(every.state[2:4], alone.state)
    assert several.state.shape == (2, 1, 8, 8)
    assert (several.energies[-1].sum(-1) <= alone.energies[-1].sum(-1)).all()


def test_converged_images_stop() -> None:
    model = make_image_ebt(step_size_scale=1e-3)
    thought = model.think(images(), steps=50, tolerance=1e6)
    assert thought.steps.tolist() == [1, 1]


def test_a_step_moves_larger_images_as_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one colour and without positions, all patches are alike; were the energy a mean, its gradient would be smaller."""
    model = make_image_ebt()
    monkeypatch.setattr(model.patches, "places", lambda image: torch.zeros(image[0].numel() // 16, 16, dtype=image.dtype))
    moved = [model.think(torch.full((1, 1, size, size), 0.3), steps=1).state for size in (8, 16)]
    torch.testing.assert_close(moved[1], moved[0].repeat(1, 1, 2, 2))
    assert not torch.allclose(moved[0], torch.full_like(moved[0], 0.3))


def test_inference_mode_works() -> None:
    model, image = make_image_ebt(), images()
    expected = model.think(image).state
    with torch.inference_mode():
        assert torch.equal(model.think(images()).state, expected)
    with pytest.raises(InputError, match="steps is 0"):
        model.think(image, steps=0)


def test_features_are_given_for_every_patch() -> None:
    image = images()
    for model in (make_image_ebt(), make_dit()):
        assert model.features(image).shape == (2, 4, 16)


def test_a_diffusion_transformer_is_told_the_noise_level_of_each_row() -> None:
    model, image = make_dit(), images()
    output = model(image, torch.tensor([3, 50]))
    assert output.shape == (2, 2, 8, 8)
    torch.testing.assert_close(output[1:], model(image[1:], torch.tensor([50])))
    assert not torch.allclose(output[1:], model(image[1:], torch.tensor([3])))
    assert model(images(1, 16, 4), torch.tensor([0])).shape == (1, 2, 16, 4)


def masks(rows: int = 2) -> Tensor:
    free = torch.zeros(rows, 1, 8, 8, dtype=torch.bool)
    free[:, :, 2:5, 3:7] = True
    return free


def test_known_pixels_are_seen_whatever_the_state_is() -> None:
    model, known, free = make_image_ebt(), images(), masks()
    landscape, state = model.landscape(known, free), images(4) * 3
    seen = torch.where(free.repeat(2, 1, 1, 1), state, known.repeat(2, 1, 1, 1))
    torch.testing.assert_close(landscape(state, 0), model.landscape(known)(seen, 0))
    rows = torch.tensor([3, 0])
    torch.testing.assert_close(landscape.select(rows)(state[rows], 0), landscape(state, 0)[rows])


def test_filling_in_keeps_what_is_known_and_lowers_the_energy() -> None:
    model, image, free = make_image_ebt(step_size_scale=0.05), images(), masks()
    few, many = (model.infill(image, free, steps, torch.Generator().manual_seed(0)) for steps in (1, 30))
    keep = ~free.expand_as(image)
    assert torch.equal(many[keep], image[keep])
    assert not torch.equal(many, image)
    first, last = (model.landscape(image)(filled, 0).sum() for filled in (few, many))
    assert last < first


def test_masks_must_fit() -> None:
    model = make_image_ebt()
    with pytest.raises(InputError, match="make their sizes equal"):
        model.infill(images(), masks()[:, :, :4])
    with pytest.raises(InputError, match="leaves no pixel of an image known"):
        model.infill(images(), torch.ones_like(masks()))
    for free in (masks().float(), masks().byte(), masks().tolist()):
        for ask in (model.infill, model.emptied, lambda image, free: model.think(image, free=free)):
            with pytest.raises(InputError, match=r"free is .*: give a bool tensor"):
                ask(images(), free)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.long])
def test_images_of_whole_numbers_are_of_another_scale(dtype: torch.dtype) -> None:
    model, dit, image = make_image_ebt(), make_dit(), images().to(dtype)
    asks = (model.think, model.predict, model, lambda given: model.infill(given, masks()), dit.denoise)
    for ask in asks:
        with pytest.raises(InputError, match=rf"pixel_values has dtype {dtype}: .* in \[-1, 1\]"):
            ask(image)


def test_one_evaluation_is_the_direct_estimate() -> None:
    model, schedule = make_dit(noise_levels=100), NoiseSchedule.linear(100)
    noisy = schedule.noisy(images(), 0.3)
    t = torch.full((2,), 29)
    expected = schedule.clean(noisy, model(noisy, t).chunk(2, 1)[0], t).clamp(-1, 1)
    torch.testing.assert_close(model.denoise(noisy, 0.3, 1), expected)
    assert torch.equal(model.denoise(noisy, 0.3, 1, trained_only=True), model.denoise(noisy, 0.1, 1))


def test_rounds_denoise_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, noisy, told = make_dit(noise_levels=100), images(), list[int]()
    monkeypatch.setattr(model, "forward", lambda x, t: (told.append(int(t[0])), torch.cat((x, x), 1))[1])
    model.denoise(noisy, 0.2, steps=4, rounds=2)
    assert told == [19, 14, 9, 4] * 2
    told.clear()
    model.denoise(noisy, 0.1, steps=10)
    assert told == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    with pytest.raises(InputError, match="steps 0, rounds 1"):
        model.denoise(noisy, steps=0)
