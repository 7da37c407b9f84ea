"""The published image models: their checkpoints, and their recorded runs computed by ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from ebt.errors import InputError
from ebt.interop.reference.names import ALPHA, NOISE_STD
from ebt.interop.reference.recorded import Case, Draws, report, start_of, think_again, training_steps
from ebt.interop.reference.settings import Settings, recipe_of, thinking
from ebt.models.base import HubModel
from ebt.problems.images.configuration import DiTImagesConfig, EBTImagesConfig
from ebt.problems.images.diffusion import NoiseSchedule
from ebt.problems.images.models import DiTForImages, EBTForImages

Tensors = Mapping[str, Tensor]

_BLOCK = {
    "attn.qkv": ("attention.query", "attention.key", "attention.value"),
    "attn.proj": ("attention.output",),
    "mlp.fc1": ("up",),
    "mlp.fc2": ("down",),
    "adaLN_modulation.1": ("modulation.projection",),
}
_EBT = {
    "transformer.x_embedder.proj": ("patches.projection",),
    "transformer.final_layer.adaLN_modulation.1": ("network.head.norm.modulation.projection",),
}
_DIT = {
    "diffusion_transformer.x_embedder.proj": ("patches.projection",),
    "diffusion_transformer.t_embedder.mlp.0": ("level.first",),
    "diffusion_transformer.t_embedder.mlp.2": ("level.second",),
    "diffusion_transformer.final_layer.adaLN_modulation.1": ("network.norm.modulation.projection",),
    "diffusion_transformer.final_layer.linear": ("head",),
}


def convert(hparams: Settings, state: Tensors) -> EBTForImages | DiTForImages:
    """The published image EBT or DiT as one of our models, in the dtype of its weights.

    Args:
        hparams: the hyper-parameters of the checkpoint.
        state: its weights by their published names, without the prefix of the trainer.

    Raises:
        InputError: missing, foreign or misshapen weights, or settings that we do not have.
    """
    thinks = not any(name.startswith("diffusion_transformer.") for name in state)
    names = _names(hparams, thinks)
    known = {*names, *((ALPHA, NOISE_STD) if thinks else ())}
    for problem, found in (("lacks", known - set(state)), ("has the unknown", set(state) - known)):
        if found:
            raise InputError(f"the checkpoint {problem} {sorted(found)[0]}: it is no image model of the form its settings name")
    model = _model(hparams, state, thinks)
    model.load_state_dict(_ours(names, state, model))
    return model.eval()


def _names(hparams: Settings, thinks: bool) -> dict[str, tuple[str, ...]]:
    """Our names, several where they share one tensor, by the published name."""
    prefix = "transformer" if thinks else "diffusion_transformer"
    layers: dict[str, tuple[str, ...]] = {
        f"{prefix}.blocks.{i}.{theirs}": tuple(f"network.blocks.{i}.{name}" for name in ours)
        for i in range(_of(hparams, "num_transformer_blocks"))
        for theirs, ours in _BLOCK.items()
    }
    layers |= _EBT if thinks else _DIT
    names: dict[str, tuple[str, ...]] = {f"{prefix}.pos_embed": ("patches.positions",)}
    for kind in ("weight", "bias"):
        names |= {f"{theirs}.{kind}": tuple(f"{name}.{kind}" for name in ours) for theirs, ours in layers.items()}
    if thinks:
        names["transformer.final_layer.linear.weight"] = ("network.head.projection.weight",)
        names["learned_adaln_condition.weight"] = ("network.steps.vectors.weight",)
    return names


def _of(hparams: Settings, name: str) -> Any:
    if name not in hparams:
        raise InputError(f"the checkpoint's hyper-parameters lack {name}: it is no image model of the published code")
    return hparams[name]


def _model(hparams: Settings, state: Tensors, thinks: bool) -> EBTForImages | DiTForImages:
    prefix = "transformer" if thinks else "diffusion_transformer"
    patch, share = _of(hparams, "patch_size"), _of(hparams, "denoise_images_noise_level")
    size = {int(side) for side in _of(hparams, "image_dims")}
    if len(size) > 1:
        raise InputError(f"image_dims is {hparams['image_dims']}: only square images can be converted")
    fields: dict[str, Any] = {
        "num_channels": state[f"{prefix}.x_embedder.proj.weight"].shape[1],
        "image_size": size.pop(),
        "patch_size": patch,
        "layers": _of(hparams, "num_transformer_blocks"),
        "dim": _of(hparams, "embedding_dim"),
        "heads": _of(hparams, "multiheaded_attention_heads"),
        "ffn_dim": state[f"{prefix}.blocks.0.mlp.fc1.weight"].shape[0],
        "noise_level": share,
    }
    dtype = state[f"{prefix}.pos_embed"].dtype
    if not thinks:
        return DiTForImages(DiTImagesConfig(**fields, noise_levels=_levels(hparams))).to(dtype)
    fields |= thinking(hparams, state) | {"energy_scale": float((fields["image_size"] // patch) ** 2)}
    return EBTForImages(EBTImagesConfig(**fields)).to(dtype)


def _levels(hparams: Settings) -> int:
    """Noise levels in all, of which the first ``diffusion_steps`` are used."""
    return int(_of(hparams, "diffusion_steps") / _of(hparams, "denoise_images_noise_level"))


def _ours(names: Mapping[str, tuple[str, ...]], state: Tensors, model: HubModel) -> dict[str, Tensor]:
    """The weights by our names."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    found: dict[str, Tensor] = {}
    for theirs, ours in names.items():
        if state[theirs].numel() != sum(shapes[name].numel() for name in ours):
            raise InputError(f"{theirs} has the shape {tuple(state[theirs].shape)}, which its settings do not give it")
        for name, part in zip(ours, state[theirs].chunk(len(ours)), strict=True):
            found[name] = part.reshape(shapes[name])
    if isinstance(model, EBTForImages):
        found["step_size.log_scale"] = torch.zeros_like(state[ALPHA])  # the configuration's step size is the trained one
    return found


def recompute(subject: Case, draws: Draws, extra: Mapping[str, Any]) -> dict[str, Tensor]:
    """All that a run recorded, by its recorded names. ``extra``: what else is recorded (``total_diffusion_steps``)."""
    hparams, inputs = subject.hparams, subject.cast(subject.inputs)
    model = convert(hparams, subject.cast(subject.weights))
    schedule = NoiseSchedule.linear(extra.get("total_diffusion_steps", _levels(hparams)))
    if isinstance(model, EBTForImages):
        found = _recompute_ebt(model, subject, draws, schedule)
    else:
        found = _recompute_dit(model, hparams, inputs, schedule)
    return {name: tensor.detach() for name, tensor in {**found, **_gradients(hparams, subject.weights, model)}.items()}


def _recompute_ebt(model: EBTForImages, subject: Case, draws: Draws, schedule: NoiseSchedule) -> dict[str, Tensor]:
    hparams, inputs = subject.hparams, subject.cast(subject.inputs)
    image, steps = inputs["image"], training_steps(hparams, draws)
    recipe = recipe_of(hparams, subject.weights)
    q_noise = start_of(inputs["q_noise"], draws, steps, hparams["langevin_dynamics_noise"])
    start = schedule.noised(image, q_noise, torch.full((len(image),), hparams["diffusion_steps"] - 1))
    outcome = think_again(model, model.landscape(image), start, image, recipe, steps, draws)
    outcome.loss.backward()
    found = report(outcome, "prediction")
    for i, contribution in enumerate(outcome.thought.energies):
        energies = contribution * model.config.patches
        found |= {f"patch_energy.{i}": energies, f"energy.{i}": energies.mean(-1)}
    found["energy_gap"] = found["energy.0"].mean() - found[f"energy.{len(steps) - 1}"].mean()
    return {**found, "noised_image": start, "l1_loss": (outcome.thought.state - image).abs().mean()}


def _recompute_dit(model: DiTForImages, hparams: Settings, inputs: Tensors, schedule: NoiseSchedule) -> dict[str, Tensor]:
    found = {"schedule.betas": schedule.betas, "schedule.alphas_cumprod": schedule.kept}
    found["schedule.posterior_log_variance_clipped"] = schedule.least_log_variance
    found["forward"] = model(inputs["x"], inputs["t"])
    found |= _losses(model, schedule, inputs, torch.zeros_like(inputs["train_t"]), "t0.")
    found |= _losses(model, schedule, inputs, inputs["train_t"], "")
    found["loss"].backward()
    with torch.no_grad():
        return {**found, **_trajectories(model, schedule, inputs, hparams["diffusion_steps"])}


def _losses(model: DiTForImages, schedule: NoiseSchedule, inputs: Tensors, t: Tensor, prefix: str) -> dict[str, Tensor]:
    image, noise = inputs["image"], inputs["train_noise"]
    square, bound = schedule.loss(model(schedule.noised(image, noise, t), t), image, noise, t)
    return {
        f"{prefix}loss": (square + bound).mean(),
        f"{prefix}mse_loss": square.mean(),
        f"{prefix}vb_loss": bound.mean(),
    }


def _trajectories(model: DiTForImages, schedule: NoiseSchedule, inputs: Tensors, steps: int) -> dict[str, Tensor]:
    """Samples by DDIM without noise, and by DDPM with the recorded noise, from the recorded start."""
    import diffusers.schedulers.scheduling_ddpm as ddpm

    found: dict[str, Tensor] = {}
    ddim_sampler, ddpm_sampler = schedule.sampler("ddim"), schedule.sampler("ddpm")
    x = y = inputs["sample_noise"]
    for i, level in enumerate(reversed(range(steps))):
        t = torch.full((len(x),), level)
        step = ddim_sampler.step(model(x, t).chunk(2, 1)[0], level, x, use_clipped_model_output=True)
        x = found[f"ddim.sample.{i}"] = step.prev_sample
        found[f"ddim.pred_xstart.{i}"] = step.pred_original_sample
        with mock.patch.object(ddpm, "randn_tensor", _always(inputs["ddpm_noise"][i])):
            y = found[f"ddpm.sample.{i}"] = ddpm_sampler.step(model(y, t), level, y).prev_sample
    return found


def _always(noise: Tensor) -> Callable[..., Tensor]:
    def draw(*_: Any, **__: Any) -> Tensor:
        return noise

    return draw


def _gradients(hparams: Settings, weights: Tensors, model: EBTForImages | DiTForImages) -> dict[str, Tensor]:
    """Gradients by the published names of the weights."""
    parameters = dict(model.named_parameters())
    found: dict[str, Tensor] = {}
    for theirs, ours in _names(hparams, isinstance(model, EBTForImages)).items():
        given = [part for name in ours if name in parameters and (part := parameters[name].grad) is not None]
        if given:
            found[f"grad.{theirs}"] = torch.cat(given).reshape(weights[theirs].shape)
    if isinstance(model, EBTForImages) and model.step_size.log_scale.grad is not None:
        found["grad.alpha"] = model.step_size.log_scale.grad / model.step_size.initial
    return found
