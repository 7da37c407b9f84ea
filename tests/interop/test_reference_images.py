"""The published image models as ours; what was recorded of them is compared by test_reference_cases."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ebt.errors import InputError
from ebt.interop.reference.compare import check
from ebt.interop.reference.models import convert
from ebt.interop.reference.weights import Tensors
from ebt.nn import fixed_positions
from ebt.problems.folder import load_folder, save_folder
from ebt.problems.images.models import DiTForImages, EBTForImages

PARITY = Path(__file__).parents[1] / "data" / "parity"


def read(case: str) -> tuple[dict[str, Any], Tensors]:
    return json.loads((PARITY / f"{case}.json").read_text()), load_file(PARITY / f"{case}.weights.safetensors")


RANDOM = {
    "no_mcmc_detach": True,
    "truncate_mcmc": True,
    "randomize_mcmc_num_steps": 2,
    "randomize_mcmc_num_steps_min": 2,
    "randomize_mcmc_step_size_scale": 2.0,
    "langevin_dynamics_noise": 0.1,
}


def draw(image: Tensor, repeats: Sequence[int]) -> Tensors:
    """Draws in the order in which the published code asks for them."""
    generator = torch.Generator().manual_seed(0)
    draws = [("rand", torch.rand(len(image), 1, 1, 1, generator=generator))]
    draws += [("randint", torch.tensor([count])) for count in repeats]
    draws += [("randn", torch.randn(image.shape, generator=generator)) for _ in range(sum(repeats))]
    return {f"draw.{i:02d}.{kind}": values for i, (kind, values) in enumerate(draws)}


def think_step_by_step(draws: Tensors, inputs: Tensors) -> Tensors:
    """A run of the S2 recipe, with nothing of ours but the energies of patches; without draws that of an evaluation."""
    extra, weights = read("img_ebt")
    model: Any = convert(extra["hparams"], {name: value.double() for name, value in weights.items()})
    landscape, patches = model.landscape(None), 16
    alpha = trained = weights["alpha"].double().requires_grad_()
    noise = [0.1 * value.double() for name, value in draws.items() if "randn" in name] or [torch.zeros(())] * 4
    if draws:
        alpha = trained / 2 + draws["draw.00.rand"].double() * (trained * 2 - trained / 2)
    image, state = inputs["image"].double(), load_file(PARITY / "img_ebt.s2_f64.safetensors")["noised_image"]
    found, losses = {"noised_image": state}, []
    for i, normal in enumerate(noise):
        point = (state if i else state.clone().requires_grad_()) + normal
        patch = landscape(point, 0) * patches
        energy = patch.mean(-1)
        (slope,) = torch.autograd.grad(energy.sum(), point, create_graph=i == len(noise) - 1)
        state = point - alpha * slope
        losses.append(torch.nn.functional.smooth_l1_loss(state, image))
        found |= {f"patch_energy.{i}": patch, f"energy.{i}": energy, f"prediction.{i}": state}
    losses[-1].backward()
    found |= {"loss": losses[-1], "initial_loss": losses[0], "final_step_loss": losses[-1]}
    found |= {"l1_loss": (state - image).abs().mean(), "energy_gap": found["energy.0"].mean() - energy.mean()}
    assert trained.grad is not None
    return found | ({"grad.alpha": trained.grad} if draws else {})


@pytest.mark.parametrize("run", ["s2rand", "s2eval"])
def test_random_trainings_and_evaluations_of_images_are_reproduced(run: str, tmp_path: Path) -> None:
    extra, weights = read("img_ebt")
    inputs = load_file(PARITY / "img_ebt.inputs.safetensors")
    draws = draw(inputs["image"], (3, 2)) if run == "s2rand" else {}
    found = {name: value.detach().clone() for name, value in think_step_by_step(draws, inputs).items()}
    extra["runs"] = {run: {"overrides": {**RANDOM, "no_langevin_during_eval": True}}}
    (tmp_path / "img_ebt.json").write_text(json.dumps(extra))
    files = {"weights": weights, "inputs": inputs, f"{run}_f64": found, **({f"{run}_draws": draws} if draws else {})}
    for kind, tensors in files.items():
        save_file(tensors, tmp_path / f"img_ebt.{kind}.safetensors")
    rows = check(tmp_path, "img_ebt", f"{run}_f64")
    assert sum(row.tensors for row in rows) == len(found)
    assert [row for row in rows if not row.ok] == []


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
    with pytest.raises(InputError, match=r"transformer\.pos_embed is missing"):
        convert(extra["hparams"], lacking)
    with pytest.raises(InputError, match=r"transformer\.extra is unknown"):
        convert(extra["hparams"], {**weights, "transformer.extra": torch.zeros(1)})
    with pytest.raises(InputError, match=r"mlp\.fc2\.bias has the shape"):
        convert(extra["hparams"], {**weights, "transformer.blocks.0.mlp.fc2.bias": torch.zeros(3)})
    fewer = {name: value for name, value in extra["hparams"].items() if name != "patch_size"}
    with pytest.raises(InputError, match="patch_size is missing"):
        convert(fewer, weights)
    with pytest.raises(InputError, match="modality is missing"):
        convert({}, weights)
    with pytest.raises(InputError, match="'dit' in modality = 'VID'"):
        convert({**extra["hparams"], "modality": "VID", "model_name": "dit"}, weights)
