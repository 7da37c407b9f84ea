"""Hyper-parameters of the published code, as settings of this library; what is not understood is refused by its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ebt.errors import InputError
from ebt.interop.reference import names
from ebt.interop.reference.known import KNOWN
from ebt.thinking import Gradients, Recipe

Settings = Mapping[str, Any]

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "normalize_initial_condition_only_first_step": (False,),
    "sharpen_predicted_distribution": (0.0,),
    "absolute_clamp": (0.0,),
    "clamp_max_after_warm_up": (0.0,),
    "num_modality_processing_mlp_layers": (1,),
    "learnable_process_memory": (False,),
    "langevin_dynamics_noise_learnable": (False,),
    "override_embedding_dim": (0,),
    "override_transformer_blocks": (0,),
    "weight_tie_vae_proj": (False,),
    "reconstruction_coeff": (1.0,),
}
"""Settings that change what a model computes or how it is trained, with the values that this library has an equal for."""

CONDITIONING = {"default": "none", "time_embed": "prefix", "adaln": "modulation", "adaln_zero": "modulation"}
"""``ebt_type``: how the step index gets into the network. ``adaln`` and ``adaln_zero`` differ in their first weights only."""

RULES = {"min": "lowest", "max": "highest", "max_gap": "largest_drop"}
"""``infer_energy_sampling_technique`` as a rule of self-verification."""


@dataclass(frozen=True)
class Inference:
    """The published code's advanced inference: best of several candidates, per token."""

    schedule: tuple[int, ...]
    candidates: int
    rule: str
    noise: float
    step_size: float


def require(settings: Settings, needed: Iterable[str]) -> None:
    """Raises InputError if the hyper-parameters lack one of these names, or hold what has no equal here."""
    if missing := [name for name in needed if name not in settings]:
        raise InputError(f"the hyper-parameter {missing[0]} is missing: give a checkpoint of the published code, unchanged")
    if foreign := [name for name, value in settings.items() if name not in KNOWN and value not in (None, False, 0, "")]:
        raise InputError(
            f"the hyper-parameter {foreign[0]} = {settings[foreign[0]]!r} is not one of the published code: what it changes is "
            "not known here. Remove it from hyper_parameters if it changes nothing in the model"
        )
    for name, allowed in NEUTRAL.items():
        if settings.get(name, allowed[0]) not in allowed:
            raise InputError(
                f"the hyper-parameter {name} = {settings[name]!r} has no equal here: only "
                f"{' or '.join(map(repr, allowed))} converts"
            )


def network(settings: Settings, layers: int, ffn_dim: int) -> dict[str, Any]:
    """Size and blocks of an autoregressive network, as fields of a model's configuration."""
    if settings["num_transformer_blocks"] != layers:
        raise InputError(
            f"the hyper-parameter num_transformer_blocks is {settings['num_transformer_blocks']}, but the weights have "
            f"{layers} blocks: give the checkpoint's own hyper-parameters"
        )
    kind = settings.get("ebt_type", "default")
    if kind == "time_embed" and (settings.get("ebt_norm", "rms"), settings.get("ebt_act_func", "silu")) != ("rms", "silu"):
        raise InputError(
            f"the hyper-parameters ebt_norm = {settings['ebt_norm']!r} and ebt_act_func = {settings['ebt_act_func']!r}: "
            "only rms and silu convert"
        )
    return {
        "layers": layers,
        "dim": settings["embedding_dim"],
        "heads": settings["multiheaded_attention_heads"],
        "ffn_dim": ffn_dim,
        "anchor": "none",
        "head": "linear",
        "scale_inputs": False,
        "context_length": settings["context_length"],
    }


def conditioning(settings: Settings) -> dict[str, Any]:
    """How the step index gets into an autoregressive EBT."""
    kind = settings["ebt_type"]
    if kind not in CONDITIONING:
        raise InputError(
            f"the hyper-parameter ebt_type = {kind!r} is not understood: one of {', '.join(CONDITIONING)} converts"
        )
    steps = settings["mcmc_num_steps"] if kind != "default" else 1
    return {"conditioning": CONDITIONING[kind], "conditioned_steps": steps}


def recipe(settings: Settings, alpha: float) -> Recipe:
    """How the model was trained.

    With ``truncate_mcmc``, ``no_mcmc_detach`` changes nothing but alpha's gradient: both are the truncated recipe, unless
    nothing is random.
    """
    truncated, whole = settings["truncate_mcmc"], settings["no_mcmc_detach"]
    noise, spread = settings["langevin_dynamics_noise"], settings["randomize_mcmc_step_size_scale"]
    replay = bool(settings["mcmc_replay_buffer"])
    plain = not (noise or replay or spread != 1)
    gradients: Gradients = "full" if whole else "detached"
    if truncated and (whole or not plain):
        gradients = "truncated"
    elif not whole and not plain:
        raise InputError(
            "the hyper-parameters have noise, a replay buffer or random step sizes, but no_mcmc_detach is not set: candidates "
            "would be detached at every step (S1), which this library does not combine. Set no_mcmc_detach"
        )
    return Recipe(
        **_steps(settings),
        gradients=gradients,
        loss="last" if truncated else "every",
        step_size_spread=float(spread),
        noise=float(noise),
        start_std=_start_std(settings),
        clamp=settings["clamp_futures_grad_max_change"] / alpha if settings["clamp_futures_grad"] else None,
        replay_size=settings["mcmc_replay_buffer_size"] if replay else 0,
        replay_fraction=settings["mcmc_replay_buffer_sample_bs_percent"] if replay else 0.0,
    )


def _steps(settings: Settings) -> dict[str, Any]:
    landscapes, extra = settings["mcmc_num_steps"], settings["randomize_mcmc_num_steps"]
    if not extra:
        return {"min_steps": landscapes, "max_steps": landscapes}
    return {
        "landscapes": landscapes,
        "min_steps": settings["randomize_mcmc_num_steps_min"] or 1,
        "max_steps": extra + 1,
        "repeated": "last" if settings["randomize_mcmc_num_steps_final_landscape"] else "all",
    }


def _start_std(settings: Settings) -> float:
    start = settings["denoising_initial_condition"]
    if start == "zeros":
        return 0.0
    if start != "random_noise":
        raise InputError(
            f"the hyper-parameter denoising_initial_condition = {start!r} has no equal here: only 'random_noise' or 'zeros' "
            "converts"
        )
    return float(settings["gaussian_random_noise_scaling"]) if settings["modality"] == "NLP" else 1.0


def evaluation_schedule(settings: Settings) -> tuple[int, ...]:
    """The steps of evaluations: every landscape once, the last as often as training ever did."""
    landscapes = settings["mcmc_num_steps"]
    return (*range(landscapes), *([landscapes - 1] * settings["randomize_mcmc_num_steps"]))


def inference(settings: Settings, alpha: float, trained_noise: float) -> Inference:
    """How advanced inference thinks.

    Raises:
        InputError: an option of it that this library has no equal for.
    """
    for name in ("infer_accept_lower_energies", "infer_langevin_first_step", "infer_alpha_final_landscape"):
        if settings.get(name):
            raise InputError(f"the hyper-parameter {name} has no equal here: leave it out")
    steps, landscapes = settings["infer_ebt_num_steps"], settings["mcmc_num_steps"]
    if settings["ebt_type"] == "default":
        schedule = tuple(range(steps if steps > 1 else landscapes))
    else:
        inner = steps if steps != 1 else settings["randomize_mcmc_num_steps_min"] or 1
        final_only = settings["infer_steps_final_landscape"]
        counts = [1 if final_only and i < landscapes - 1 else inner for i in range(landscapes)]
        schedule = tuple(i for i, count in enumerate(counts) for _ in range(count))
    override = settings["infer_ebt_override_alpha"]
    return Inference(
        schedule=schedule,
        candidates=settings["infer_generated_samples"],
        rule=RULES[settings["infer_energy_sampling_technique"]],
        noise=float(settings["infer_langevin_dynamics_noise"] or trained_noise),
        step_size=alpha * override if 0 < override < 1 else float(override) if override >= 1 else alpha,
    )


def recipe_of(hparams: Settings, state: Mapping[str, Tensor]) -> Recipe:
    """How the model was trained."""
    return recipe(hparams, names.alpha(state))


def thinking(hparams: Settings, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """How an EBT thinks, as fields of its configuration; energies keep the published scale."""
    trained = recipe_of(hparams, state)
    return {
        "step_size": names.alpha(state),
        "energy_scale": 1.0,
        "learn_step_size": bool(hparams["mcmc_step_size_learnable"]),
        "start_std": trained.start_std,
        "steps": trained.own_steps,
        "clamp": trained.clamp,
    }
