"""The published image models as ours; what was recorded of them is compared by test_reference_cases."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ebt.errors import InputError
from ebt.interop.reference.cases import check
from ebt.interop.reference.images import convert
from ebt.interop.reference.recorded import Tensors
from ebt.nn import fixed_positions
from ebt.problems.folder import load_folder, save_folder
from ebt.problems.images.models import DiTForImages, EBTForImages

PARITY = Path(__file__).resolve().parents[3] / "shared" / "parity"
pytestmark = pytest.mark.skipif(not PARITY.exists(), reason="needs the benchmark data beside the checkout: shared/parity")


def read(case: str) -> tuple[dict[str, Any], Tensors]:
    return json.loads((PARITY / f"{case}.json").read_text()), load_file(PARITY / f"{case}.weights.safetensors")


def draw(image: Tensor, repeats: Sequence[int]) -> Tensors:
    """Draws in the order in which the published code asks for them."""
    generator = torch.Generator().manual_seed(0)
    draws = [("rand", torch.rand(len(image), 1, 1, 1, generator=generator))]
    draws += [("randint", torch.tensor([count])) for count in repeats]
    draws += [("randn", torch.randn(image.shape, generator=generator)) for _ in range(sum(repeats))]
    return {f"draw.{i:02d}.{kind}": values for i, (kind, values) in enumerate(draws)}


def think_at_random(draws: Tensors, inputs: Tensors) -> Tensors:
    """The run s2rand step by step, with nothing of ours but the energies of patches."""
    extra, weights = read("img_ebt")
    model = convert(extra["hparams"], {name: value.double() for name, value in weights.items()})
    landscape, patches = model.landscape(), 16
    trained = weights["alpha"].double().requires_grad_()
    uniform, noise = draws["draw.00.rand"].double(), [value.double() for name, value in draws.items() if "randn" in name]
    alpha = trained / 2 + uniform * (trained * 2 - trained / 2)
    image, state = inputs["image"].double(), load_file(PARITY / "img_ebt.s2_f64.safetensors")["noised_image"]
    found, losses = {"noised_image": state}, []
    for i, normal in enumerate(noise):
        point = (state if i else state.clone().requires_grad_()) + 0.1 * normal
        patch = landscape(point, 0) * patches
        energy = patch.mean(-1)
        (slope,) = torch.autograd.grad(energy.sum(), point, create_graph=i == len(noise) - 1)
        state = point - alpha * slope
        losses.append(torch.nn.functional.smooth_l1_loss(state, image))
        found |= {f"patch_energy.{i}": patch, f"energy.{i}": energy, f"prediction.{i}": state}
    losses[-1].backward()
    found |= {"loss": losses[-1], "initial_loss": losses[0], "final_step_loss": losses[-1]}
    found |= {"l1_loss": (state - image).abs().mean(), "energy_gap": found["energy.0"].mean() - energy.mean()}
    return found | {"grad.alpha": trained.grad}


def test_random_steps_step_sizes_and_noise_follow_their_recorded_draws(tmp_path: Path) -> None:
    for file in PARITY.glob("img_ebt.*"):
        if file.suffix == ".json" or ".weights." in file.name or ".inputs." in file.name:
            shutil.copy(file, tmp_path)
    inputs = load_file(PARITY / "img_ebt.inputs.safetensors")
    draws = draw(inputs["image"], (3, 2))
    found = {name: value.detach().clone() for name, value in think_at_random(draws, inputs).items()}
    save_file(draws, tmp_path / "img_ebt.s2rand_draws.safetensors")
    save_file(found, tmp_path / "img_ebt.s2rand_f64.safetensors")
    assert [row for row in check(tmp_path, "img_ebt", "s2rand_f64") if not row.ok] == []
    (tmp_path / "img_ebt.s2rand_draws.safetensors").unlink()
    (row,) = check(tmp_path, "img_ebt", "s2rand_f64")
    assert "s2rand_draws.safetensors is missing" in row.problem


@pytest.mark.parametrize(("case", "kind"), [("img_ebt", EBTForImages), ("img_dit", DiTForImages)])
def test_converted_models_are_models_like_others(case: str, kind: type, tmp_path: Path) -> None:
    extra, weights = read(case)
    model = convert(extra["hparams"], weights)
    loaded = load_folder(save_folder(model, tmp_path / "model"))
    assert type(model) is type(loaded) is kind
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


@pytest.mark.parametrize("case", ["img_ebt", "img_dit"])
def test_fixed_positions_are_the_published_ones(case: str) -> None:
    weights = read(case)[1]
    (stored,) = (tensor for name, tensor in weights.items() if name.endswith("pos_embed"))
    torch.testing.assert_close(fixed_positions(4, 4, 32), stored[0], rtol=0, atol=1e-6)


def test_missing_foreign_and_misshapen_weights_are_named() -> None:
    extra, weights = read("img_ebt")
    lacking = {name: tensor for name, tensor in weights.items() if name != "transformer.pos_embed"}
    with pytest.raises(InputError, match=r"lacks transformer\.pos_embed"):
        convert(extra["hparams"], lacking)
    with pytest.raises(InputError, match=r"unknown transformer\.extra"):
        convert(extra["hparams"], {**weights, "transformer.extra": torch.zeros(1)})
    with pytest.raises(InputError, match=r"mlp\.fc2\.bias has the shape"):
        convert(extra["hparams"], {**weights, "transformer.blocks.0.mlp.fc2.bias": torch.zeros(3)})
    with pytest.raises(InputError, match="lack num_transformer_blocks"):
        convert({}, weights)
