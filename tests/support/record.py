"""Writes folders of recorded cases as the published implementation's are, computed by the oracle beside this file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import published
import torch
from published import Draws, Named, Settings
from safetensors.torch import load_file, save_file
from torch import Tensor

VOCAB, LENGTH, BATCH, DIM, FFN, ENCODER = 13, 5, 2, 8, 12, 6
DTYPES = {"f32": torch.float32, "f64": torch.float64}
NOISE_STD = "langevin_dynamics_noise_std"

HPARAMS: dict[str, Any] = {
    "modality": "NLP",
    "model_name": "ebt",
    "ebt_type": "default",
    "ebt_norm": "rms",
    "ebt_act_func": "silu",
    "num_transformer_blocks": 2,
    "multiheaded_attention_heads": 2,
    "embedding_dim": DIM,
    "ffn_dim_multiplier": FFN / DIM,
    "context_length": LENGTH,
    "batch_size_per_device": BATCH,
    "normalize_initial_condition": True,
    "vocab_to_embed_uses_prob_dist": False,
    "denoising_initial_condition": "random_noise",
    "gaussian_random_noise_scaling": 1,
    "mcmc_step_size": 5.0,
    "mcmc_step_size_learnable": True,
    "mcmc_num_steps": 2,
    "no_mcmc_detach": False,
    "truncate_mcmc": False,
    "randomize_mcmc_step_size_scale": 1,
    "randomize_mcmc_num_steps": 0,
    "randomize_mcmc_num_steps_min": 0,
    "randomize_mcmc_num_steps_final_landscape": False,
    "langevin_dynamics_noise": 0.0,
    "clamp_futures_grad": False,
    "clamp_futures_grad_max_change": 9.0,
    "mcmc_replay_buffer": False,
    "mcmc_replay_buffer_size": 192,
    "mcmc_replay_buffer_sample_bs_percent": 0.5,
    "infer_ebt_advanced": False,
    "infer_ebt_num_steps": 1,
    "infer_ebt_override_alpha": 0,
    "infer_generated_samples": 1,
    "infer_langevin_dynamics_noise": 0,
    "infer_energy_sampling_technique": "min",
    "infer_steps_final_landscape": False,
}
"""The hyper-parameters that matter here, as they are without a run's overrides."""

S2 = {"no_mcmc_detach": True, "truncate_mcmc": True}
S2EVAL = {**S2, "randomize_mcmc_num_steps": 2, "randomize_mcmc_num_steps_min": 2}
S2RAND = {**S2EVAL, "randomize_mcmc_step_size_scale": 2.0, "langevin_dynamics_noise": 3.0}
INFER = {
    "infer_ebt_advanced": True,
    "infer_generated_samples": 3,
    "infer_ebt_num_steps": 2,
    "infer_langevin_dynamics_noise": 0.5,
}
RUNS: dict[str, dict[str, Any]] = {
    "s1": {},
    "s2": S2,
    "nodetach": {"no_mcmc_detach": True},
    "s2rand": S2RAND,
    "s2eval": S2EVAL,
    "s2replay": {**S2RAND, "mcmc_replay_buffer": True},
    "infer": {**INFER, "infer_energy_sampling_technique": "min"},
    "s1_probdist": {"vocab_to_embed_uses_prob_dist": True},
}
SINGLE = ("s1", "s2", "s2eval", "infer", "s1_probdist", "train")
"""The runs that are recorded in float32, too."""
VIDEO_RUNS = {name: RUNS[name] for name in ("s1", "s2", "nodetach", "s2rand", "s2eval")}


def make_weights(h: Settings, *, frames: int | None = None, zero: bool = False, seed: int = 0) -> Named:
    """Random weights of a model, by their published names; a video model's if given the width of its frames."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, std: float = 1.0) -> Tensor:
        return std * torch.randn(shape, generator=generator)

    def linear(rows: int, columns: int, scale: float = 1.0) -> Tensor:
        return normal(rows, columns, std=scale * (2 / (rows + columns)) ** 0.5)

    def modulation(prefix: str, parts: int) -> Named:
        std = 0.0 if zero else 0.3
        shapes = {"weight": (parts * DIM, DIM), "bias": (parts * DIM,)}
        return {f"{prefix}.adaLN_modulation.1.{name}": normal(*shape, std=std) for name, shape in shapes.items()}

    kind, baseline, final = h["ebt_type"], h["model_name"] == "baseline_transformer", "transformer.final_layer"
    w = {} if frames else {"embeddings.weight": normal(VOCAB, DIM)}
    for i in range(h["num_transformer_blocks"]):
        layer = f"transformer.layers.{i}"
        w |= {f"{layer}.attention.{name}.weight": linear(DIM, DIM) for name in ("wq", "wk", "wv", "wo")}
        w |= {f"{layer}.feed_forward.{name}.weight": linear(FFN, DIM) for name in ("w1", "w3")}
        w |= {f"{layer}.feed_forward.w2.weight": linear(DIM, FFN)}
        w |= {f"{layer}.{name}.weight": 1 + normal(DIM, std=0.1) for name in ("attention_norm", "ffn_norm")}
        w |= modulation(layer, 6) if kind.startswith("adaln") else {}
    w["transformer.norm.weight"] = 1 + normal(DIM, std=0.1)
    if frames and frames != DIM:
        w |= {"encoder_down_projection.weight": linear(DIM, frames), "encoder_down_projection.bias": normal(DIM, std=0.3)}
    if baseline:
        return w | {"output.weight": linear(DIM if frames else VOCAB, DIM)}
    if kind != "default":
        w["transformer.time_embeddings.weight"] = normal(h["mcmc_num_steps"], DIM)
    if kind.startswith("adaln"):
        w |= {f"{final}.linear.weight": linear(1, DIM, 0.0 if zero else 0.3), **modulation(final, 2)}
    else:
        w[f"{final}.weight"] = linear(1, DIM, 0.3)
    w |= {} if frames else {"vocab_to_embed.weight": linear(DIM, VOCAB)}
    return w | {"alpha": torch.tensor(h["mcmc_step_size"]), NOISE_STD: torch.tensor(h["langevin_dynamics_noise"])}


def make_inputs(frames: int | None = None, seed: int = 1) -> Named:
    generator = torch.Generator().manual_seed(seed)
    if frames:
        wide = torch.randn(BATCH, 2 * LENGTH + 1, frames, generator=generator)
        return {"embeddings": wide[:, : LENGTH + 1].clone(), "initial_prediction": wide[:, LENGTH + 1 :].clone()}
    ids = torch.randint(1, VOCAB, (2, BATCH, LENGTH + 1), generator=generator)
    ids[:, 1, -2:] = 0
    logits = torch.randn(BATCH, LENGTH, VOCAB, generator=generator)
    return {"input_ids": ids[0].clone(), "replay_input_ids": ids[1].clone(), "initial_logits": logits}


def compute(w: Named, h: Settings, run: str, inputs: Named, draws: Draws) -> Named:
    """All that is recorded of a run; weights and inputs have the precision to compute in."""
    dtype = w["transformer.norm.weight"].dtype
    w = {name: value.detach().requires_grad_(name != NOISE_STD) for name, value in w.items()}

    def given(_: int) -> Tensor:
        return inputs["initial_logits" if "input_ids" in inputs else "initial_prediction"]

    def drawn(rows: int) -> Tensor:
        return draws.take("randn", (rows, *inputs["initial_logits"].shape[1:])).to(dtype)

    if h["model_name"] == "baseline_transformer":
        found = _baseline(w, h, inputs)
    elif h["infer_ebt_advanced"]:
        ids, samples = inputs["input_ids"], h["infer_generated_samples"]
        start = drawn(len(ids))
        start = start if samples == 1 else drawn(len(ids) * samples)  # the first draw is thrown away
        return published.infer(w, h, ids, start, draws)
    elif h["mcmc_replay_buffer"]:
        first, second = published.replay(w, h, [inputs["input_ids"], inputs["replay_input_ids"]], drawn, draws)
        calls = {"call1": {name: first[name] for name in ("loss", "final_logits")}, "call2": _with_gradients(w, second)}
        return {f"{call}.{name}": value for call, values in calls.items() for name, value in values.items()}
    else:
        text = "input_ids" in inputs
        task = published.text(w, h, inputs["input_ids"]) if text else published.video(w, h, inputs["embeddings"])
        found = published.forward(w, h, task, given, draws, training=not run.endswith("eval"))
    return found if run.endswith("eval") else _with_gradients(w, found)


def _with_gradients(w: Named, found: Named) -> Named:
    names = [name for name, value in w.items() if value.requires_grad]
    slopes = torch.autograd.grad(found["loss"], [w[name] for name in names], allow_unused=True)
    return found | {f"grad.{name}": slope for name, slope in zip(names, slopes, strict=True) if slope is not None}


def _baseline(w: Named, h: Settings, inputs: Named) -> Named:
    if "embeddings" in inputs:
        task = published.video(w, h, inputs["embeddings"])
        prediction = published.causal(w, h, task.observed)
        return {"prediction": prediction, "loss": task.loss(prediction)}
    ids = inputs["input_ids"]
    logits = published.causal(w, h, w["embeddings.weight"][ids[:, :-1]])
    loss = published.token_loss(logits, ids)
    return {"logits": logits, "loss": loss, "perplexity": loss.exp()}


def deviations(found: Named, truth: Named) -> dict[str, float]:
    """The largest difference in each group of tensors, relative to a tensor's largest entry."""
    worst: dict[str, float] = {}
    for name, value in truth.items():
        group = name.partition(".")[0]
        largest = float(value.abs().max()) or 1.0
        worst[group] = max(worst.get(group, 0.0), float((found[name].double() - value).abs().max()) / largest)
    return worst


def cast(tensors: Named, dtype: torch.dtype) -> Named:
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}


def record(
    folder: Path,
    case: str,
    overrides: Mapping[str, Any] | None = None,
    runs: Mapping[str, Mapping[str, Any]] = RUNS,
    *,
    frames: int | None = None,
    zero: bool = False,
    single: bool = False,
    seed: int = 0,
) -> None:
    """Write a case with all its runs: weights, inputs, draws, what the oracle computes, and JSON."""
    h = {**HPARAMS, **(overrides or {}), **({"modality": "VID", "normalize_initial_condition": False} if frames else {})}
    w, inputs, info = make_weights(h, frames=frames, zero=zero, seed=seed), make_inputs(frames), {}
    folder.mkdir(parents=True, exist_ok=True)
    for number, (run, changes) in enumerate(runs.items()):
        found: dict[str, Named] = {}
        for precision in DTYPES if single and run in SINGLE else ("f64",):
            draws, dtype = Draws(seed=number), DTYPES[precision]
            computed = compute(cast(w, dtype), {**h, **changes}, run, cast(inputs, dtype), draws)
            found[precision] = {name: value.detach() for name, value in computed.items()}
            save(folder, case, f"{run}_{precision}", found[precision])
        if draws.record:
            save(folder, case, f"{run}_draws", draws.record)
        rounding = deviations(found["f32"], found["f64"]) if "f32" in found else {}
        info[run] = {"overrides": dict(changes), "f32_vs_f64": rounding}
    save(folder, case, "weights", w)
    save(folder, case, "inputs", inputs)
    (folder / f"{case}.json").write_text(json.dumps({"case": case, "hparams": h, "runs": info}, indent=1))


def save(folder: Path, case: str, kind: str, tensors: Named) -> None:
    save_file({name: value.clone().contiguous() for name, value in tensors.items()}, folder / f"{case}.{kind}.safetensors")


def load(folder: Path, case: str, kind: str) -> Named:
    return load_file(folder / f"{case}.{kind}.safetensors")
