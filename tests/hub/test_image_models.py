"""The models of images: energies, thinking, and the Diffusion Transformer."""

from __future__ import annotations

import pytest
import torch
from hub_toys import make_dit, make_image_ebt
from torch import Tensor

from ebt.errors import InputError
from ebt.hub import EBTForImages, EBTImagesConfig
from ebt.thinking import choose


def images(rows: int = 2, height: int = 8, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(rows, 1, height, width, generator=generator, dtype=torch.float64) * 2 - 1


def test_an_energy_for_every_patch_and_their_mean_for_an_image() -> None:
    model, image = make_image_ebt(), images()
    energies = model.landscape()(image, 0)
    assert energies.shape == (2, 4)
    patch = model.network.encode(model.patches.positions.unsqueeze(0))(model.patches(image), 0)
    torch.testing.assert_close(model.space().per_prediction(energies), patch.mean(-1))


def test_every_pixel_reaches_every_patch_of_its_image() -> None:
    model, image = make_image_ebt(), images().requires_grad_()
    energies = model.landscape()(image, 0)
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
    torch.testing.assert_close(several.state[:2], alone.state)
    assert not torch.allclose(several.state[2:4], alone.state)
    best = choose(several, model.space(), 3)
    assert best.state.shape == (2, 1, 8, 8)
    assert (best.energies[-1].sum(-1) <= alone.energies[-1].sum(-1)).all()


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
    with pytest.raises(InputError, match="steps 0"):
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
