"""Translate hyper-parameters of the published code to settings of this library. Unknown ones are refused by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ebt.errors import InputError
from ebt.interop.reference.weights import ALPHA, NOISE_STD, alpha, take
from ebt.thinking import Gradients, Recipe, Rule

Settings = Mapping[str, Any]

# fmt: off
REQUIRED = (
    "modality", "model_name", "embedding_dim", "num_transformer_blocks", "multiheaded_attention_heads",
)
THINKING = (
    "ebt_type", "mcmc_num_steps", "mcmc_step_size_learnable", "truncate_mcmc", "no_mcmc_detach", "langevin_dynamics_noise",
    "randomize_mcmc_step_size_scale", "randomize_mcmc_num_steps", "randomize_mcmc_num_steps_min",
    "randomize_mcmc_num_steps_final_landscape", "mcmc_replay_buffer", "mcmc_replay_buffer_size",
    "mcmc_replay_buffer_sample_bs_percent", "denoising_initial_condition", "gaussian_random_noise_scaling",
    "clamp_futures_grad", "clamp_futures_grad_max_change",
)
IMAGES = (
    "image_dims", "patch_size", "diffusion_steps", "denoise_images_noise_level",
)
KNOWN = frozenset([
    "absolute_clamp", "accumulate_grad_batches", "backbone_type", "batch_size_per_device", "beta1", "beta2",
    "check_val_every_n_epoch", "checkpoint_monitor_mode", "checkpoint_monitor_string", "clamp_futures_grad",
    "clamp_futures_grad_max_change", "clamp_max_after_warm_up", "clip_text_encoder_size", "compile_model",
    "console_log_filename", "context_length", "contrastive_loss", "contrastive_loss_coeff", "create_model_viz",
    "crop_all_samples", "custom_image_normalization", "dataset_dir", "dataset_name", "debug_dataloader", "debug_log_filename",
    "debug_mode", "debug_unused_parameters", "debug_videos", "denoise_images_noise_level", "denoising_initial_condition",
    "detect_anomaly", "deterministic", "diffusion_steps", "discrete_contrastive_loss_true_logit_val", "distributed_strategy",
    "dyt_alpha_init", "ebt_act_func", "ebt_norm", "ebt_type", "embedding_dim", "embeddings_distance_fn", "encoder_lr_divider",
    "energy_loss_coeff", "energy_loss_fn", "energy_loss_hinge", "execution_mode", "fast_dev_run", "ffn_dim_multiplier",
    "ffprobe_path", "find_unused_parameters", "finetuning_model_ckpt", "float_precision", "gaussian_random_noise_scaling",
    "gpus", "gradient_clip_val", "image_dims", "image_task", "infer_accept_lower_energies", "infer_alpha_final_landscape",
    "infer_debug_sample_distances", "infer_ebt_advanced", "infer_ebt_num_steps", "infer_ebt_override_alpha", "infer_echo",
    "infer_energy_sampling_technique", "infer_generate_video", "infer_generated_samples", "infer_increase_steps",
    "infer_langevin_dynamics_noise", "infer_langevin_first_step", "infer_logprobs", "infer_max_gen_len", "infer_output_dir",
    "infer_plot_energy_landscape", "infer_recurse_diffusion_n_times", "infer_steps_final_landscape", "infer_temp",
    "infer_topk", "infer_topp", "infer_video_condition_frames", "is_random_seed", "is_slurm_run", "langevin_dynamics_noise",
    "langevin_dynamics_noise_learnable", "lars_exclude_bias_bn_wd", "lars_trust_coeff", "learnable_process_memory",
    "limit_test_batches", "limit_train_batches", "limit_val_batches", "log_every_n_steps", "log_gradients",
    "log_image_every_n_steps", "log_model_archi", "lr_scaling_rule", "manual_gc_collect_every_n_steps", "max_scheduling_steps",
    "max_steps", "mcmc_num_steps", "mcmc_replay_buffer", "mcmc_replay_buffer_sample_bs_percent", "mcmc_replay_buffer_size",
    "mcmc_step_size", "mcmc_step_size_learnable", "mcmc_step_size_lr_multiplier", "metrics_average_type", "metrics_list",
    "metrics_task", "min_lr_scale", "mlp_dim_multiplier", "mlp_dropout", "mlp_hidden_layers", "mlp_layer_norm", "modality",
    "model_name", "model_size", "multiheaded_attention_heads", "no_langevin_during_eval", "no_mcmc_detach",
    "no_randomness_dataloader", "no_shuffle", "no_wandb", "normalize_initial_condition",
    "normalize_initial_condition_only_first_step", "num_classes", "num_gpus", "num_modality_processing_mlp_layers",
    "num_nodes", "num_transformer_blocks", "num_workers", "only_test", "only_test_model_ckpt", "optimizer",
    "out_of_bounds_loss_coeff", "overfit_batches", "override_embedding_dim", "override_slurm_checks",
    "override_transformer_blocks", "patch_size", "peak_learning_rate", "prefetch_factor", "preprocess_data",
    "pretokenize_dataset", "print_logs", "process_memory_linear_layer", "process_memory_type", "profiler",
    "randomize_denoise_images_noise_level", "randomize_mcmc_num_steps", "randomize_mcmc_num_steps_final_landscape",
    "randomize_mcmc_num_steps_min", "randomize_mcmc_step_size_scale", "reconstruction_coeff", "resume_training_ckpt",
    "run_name", "run_testing_after_training", "sampling_rate", "save_top_k_ckpts", "scale_cosine_sim_decay",
    "sdxl_vae_standardization", "set_matmul_precision", "sharpen_predicted_distribution", "soften_target_prob_dist",
    "test_split_pct", "time_between_frames", "tokenizer", "total_num_workers", "truncate_mcmc", "use_deterministic_reverse",
    "use_rand_caption", "use_raw_framerate", "vae_normalization", "val_check_interval", "val_sanity", "validation_split_pct",
    "vit_backbone_size", "vocab_to_embed_uses_prob_dist", "wandb_entity", "wandb_offline", "wandb_project", "wandb_tags",
    "wandb_watch", "wandb_watch_log_freq", "warm_up_base_lr_divider", "warm_up_steps", "weight_decay",
    "weight_initialization_gain", "weight_initialization_method", "weight_tie_vae_proj",
])
# fmt: on
"""All hyper-parameters of the published code. Its checkpoints contain each of them."""

# fmt: off
NEUTRAL: dict[str, Any] = {
    "normalize_initial_condition_only_first_step": False, "sharpen_predicted_distribution": 0.0, "absolute_clamp": 0.0,
    "clamp_max_after_warm_up": 0.0, "num_modality_processing_mlp_layers": 1, "learnable_process_memory": False,
    "langevin_dynamics_noise_learnable": False, "override_embedding_dim": 0, "override_transformer_blocks": 0,
    "weight_tie_vae_proj": False, "reconstruction_coeff": 1.0,
}
# fmt: on
"""Hyper-parameters that change a model or its training, with the only supported value."""

CONDITIONING = {"default": "none", "time_embed": "prefix", "adaln": "modulation", "adaln_zero": "modulation"}
"""Conditioning on the step index by ``ebt_type``. ``adaln`` and ``adaln_zero`` differ only in their initial weights."""

RULES: dict[str, Rule] = {"min": "lowest", "max": "highest", "max_gap": "largest_drop"}
"""Rule of self-verification by ``infer_energy_sampling_technique``."""


@dataclass(frozen=True)
class Inference:
    """Advanced inference of the published code: the best of several candidates per token."""

    schedule: tuple[int, ...]
    candidates: int
    rule: Rule
    noise: float
    step_size: float


def require(settings: Settings, needed: Iterable[str]) -> None:
    """Raise InputError if a hyper-parameter in ``needed`` is missing, or any is unknown or not supported."""
    if missing := [name for name in needed if name not in settings]:
        raise InputError(f"the hyper-parameter {missing[0]} is missing: give an unmodified checkpoint of the published code")
    if foreign := [name for name, value in settings.items() if name not in KNOWN and value not in (None, False, 0, "")]:
        raise InputError(
            f"the hyper-parameter {foreign[0]} = {settings[foreign[0]]!r} does not belong to the published code, so its effect "
            "is unknown. Remove it from hyper_parameters if it does not change the model"
        )
    for name, value in NEUTRAL.items():
        if settings.get(name, value) != value:
            raise InputError(f"the hyper-parameter {name} = {settings[name]!r} is not supported: only {value!r} is")


def network(settings: Settings, layers: int, ffn_dim: int) -> dict[str, Any]:
    """Return size and blocks of an autoregressive network as configuration fields."""
    if settings["num_transformer_blocks"] != layers:
        raise InputError(
            f"the hyper-parameter num_transformer_blocks is {settings['num_transformer_blocks']}, but the weights have "
            f"{layers} blocks: give the checkpoint's own hyper-parameters"
        )
    kind = settings.get("ebt_type", "default")
    if kind == "time_embed" and (settings.get("ebt_norm", "rms"), settings.get("ebt_act_func", "silu")) != ("rms", "silu"):
        raise InputError(
            f"the hyper-parameters ebt_norm = {settings['ebt_norm']!r} and ebt_act_func = {settings['ebt_act_func']!r}: "
            "only rms and silu are supported"
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
    """Return the conditioning of an autoregressive EBT on the step index."""
    kind = settings["ebt_type"]
    if kind not in CONDITIONING:
        raise InputError(
            f"the hyper-parameter ebt_type = {kind!r} is not supported: it must be one of {', '.join(CONDITIONING)}"
        )
    steps = settings["mcmc_num_steps"] if kind != "default" else 1
    return {"conditioning": CONDITIONING[kind], "conditioned_steps": steps}


def recipe(settings: Settings, state: Mapping[str, Tensor]) -> Recipe:
    """Return the training recipe.

    With ``truncate_mcmc``, ``no_mcmc_detach`` changes only the gradient of alpha. Both are the truncated recipe, unless nothing
    is random.
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
            "the hyper-parameters have noise, a replay buffer or random step sizes, but no_mcmc_detach is not set. Candidates "
            "would be detached at every step (S1), and this library does not combine these. Set no_mcmc_detach"
        )
    return Recipe(
        **_steps(settings),
        gradients=gradients,
        loss="last" if truncated else "every",
        step_size_spread=float(spread),
        noise=float(noise),
        start_std=_start_std(settings),
        clamp=settings["clamp_futures_grad_max_change"] / alpha(state) if settings["clamp_futures_grad"] else None,
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
            f"the hyper-parameter denoising_initial_condition = {start!r} is not supported: only 'random_noise' or 'zeros' "
            "converts"
        )
    return float(settings["gaussian_random_noise_scaling"]) if settings["modality"] == "NLP" else 1.0


def noise_levels(settings: Settings) -> int:
    """Return the total number of noise levels. Image models are trained on the first ``diffusion_steps``."""
    return int(settings["diffusion_steps"] / settings["denoise_images_noise_level"])


def inference(settings: Settings, state: Mapping[str, Tensor]) -> Inference:
    """Return the thinking options of advanced inference.

    Raises:
        InputError: One of its options is not supported.
    """
    for name in ("infer_accept_lower_energies", "infer_langevin_first_step", "infer_alpha_final_landscape"):
        if settings.get(name):
            raise InputError(f"the hyper-parameter {name} is not supported: leave it out")
    steps, landscapes = settings["infer_ebt_num_steps"], settings["mcmc_num_steps"]
    if settings["ebt_type"] == "default":
        schedule = tuple(range(steps if steps > 1 else landscapes))
    else:
        inner = steps if steps != 1 else settings["randomize_mcmc_num_steps_min"] or 1
        final_only = settings["infer_steps_final_landscape"]
        counts = [1 if final_only and i < landscapes - 1 else inner for i in range(landscapes)]
        schedule = tuple(i for i, count in enumerate(counts) for _ in range(count))
    override, trained = settings["infer_ebt_override_alpha"], float(take(state, ALPHA))
    return Inference(
        schedule=schedule,
        candidates=settings["infer_generated_samples"],
        rule=RULES[settings["infer_energy_sampling_technique"]],
        noise=float(settings["infer_langevin_dynamics_noise"] or take(state, NOISE_STD)),
        step_size=trained * override if 0 < override < 1 else float(override) if override >= 1 else trained,
    )


def thinking(hparams: Settings, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the thinking options of an EBT as configuration fields. Energies keep the published scale."""
    trained = recipe(hparams, state)
    return {
        "step_size": alpha(state),
        "energy_scale": 1.0,
        "learn_step_size": bool(hparams["mcmc_step_size_learnable"]),
        "start_std": trained.start_std,
        "steps": trained.own_steps,
        "clamp": trained.clamp,
    }
