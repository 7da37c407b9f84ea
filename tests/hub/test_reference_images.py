"""The published image models and ours: every recorded tensor, in double and single precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ebt.errors import InputError
from ebt.hub import DiTForImages, EBTForImages, load_folder, save_folder
from ebt.hub.reference.images import convert, recompute
from ebt.nn import fixed_positions

PARITY = Path(__file__).resolve().parents[3] / "shared" / "parity"
pytestmark = pytest.mark.skipif(not PARITY.exists(), reason="needs the benchmark data beside the checkout: shared/parity")

RUNS = [("img_ebt", "s1"), ("img_ebt", "s2"), ("img_dit", "train")]
DTYPES = {"f64": torch.float64, "f32": torch.float32}
ULP = 2**-23
"""A single number in float32 can be equal to nothing better."""


def read(case: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return json.loads((PARITY / f"{case}.json").read_text()), load_file(PARITY / f"{case}.weights.safetensors")


def replay(case: str, run: str, precision: str, draws: list[Tensor] | None = None) -> dict[str, Tensor]:
    extra, weights = read(case)
    hparams = {**extra["hparams"], **extra["runs"][run].get("overrides", {})}
    inputs = load_file(PARITY / f"{case}.inputs.safetensors")
    return recompute(case, run, hparams, weights, inputs, draws or [], extra, DTYPES[precision])


def deviation(found: Tensor, recorded: Tensor) -> float:
    assert found.shape == recorded.shape
    return float((found.double() - recorded.double()).abs().max() / recorded.double().abs().max())


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize(("case", "run"), RUNS)
def test_every_recorded_tensor_is_reproduced(case: str, run: str, precision: str) -> None:
    recorded = load_file(PARITY / f"{case}.{run}_{precision}.safetensors")
    allowed = read(case)[0]["runs"][run]["f32_vs_f64"]
    found = replay(case, run, precision)
    assert set(recorded) <= set(found)
    for name, tensor in recorded.items():
        group = name.partition(".")[0]
        tolerance = 1e-9 if precision == "f64" else max(3 * allowed[group], ULP)
        assert found[name].dtype == tensor.dtype, name
        assert deviation(found[name], tensor) <= tolerance, name


def test_random_steps_step_sizes_and_noise_are_drawn_in_the_order_of_the_published_code() -> None:
    generator = torch.Generator().manual_seed(0)
    size = (2, 3, 16, 16)
    uniform = torch.rand(2, 1, 1, 1, generator=generator)
    repeats = [torch.tensor([3]), torch.tensor([2])]
    noise = [torch.randn(size, generator=generator) for _ in range(5)]
    found = replay("img_ebt", "s2rand", "f64", [uniform, *repeats, *noise])
    assert sum(name.startswith("prediction") for name in found) == 5
    assert not torch.equal(found["prediction.0"], replay("img_ebt", "s2", "f64")["prediction.0"])
    fresh = replay("img_ebt", "s2rand", "f64", [uniform, torch.randn(size, generator=generator), *repeats, *noise])
    assert not torch.equal(fresh["noised_image"], found["noised_image"])


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
    with pytest.raises(InputError, match="choose img_ebt or img_dit"):
        recompute("text_default", "s1", {}, {}, {}, [], {}, torch.float64)
