"""The published text and video models in plain torch functions, written from the facts recorded beside their tensors alone.

Nothing here uses the library. A model is its state dict under the published names and its hyper-parameters; a sequence is
[step token] + observed + predicted under an explicit mask. Slow and literal on purpose: the library is held to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Mapping[str, Tensor]
Settings = Mapping[str, Any]
Named = dict[str, Tensor]
Start = Callable[[int], Tensor]


class Draws:
    """Random numbers in the order in which they are asked for: recorded ones, or new ones that are kept as a record."""

    def __init__(self, recorded: Weights | None = None, *, seed: int = 0) -> None:
        self.waiting = None if recorded is None else [(name.split(".")[2], recorded[name]) for name in sorted(recorded)]
        self.record: Named = {}
        self.generator = torch.Generator().manual_seed(seed)

    def take(self, kind: str, shape: tuple[int, ...], low: int = 0, high: int = 1) -> Tensor:
        if self.waiting is not None:
            found, value = self.waiting.pop(0)
            assert (found, tuple(value.shape)) == (kind, shape), f"asked for {kind} {shape}, recorded {found} {value.shape}"
            return value
        makers: dict[str, Any] = {"rand": torch.rand, "randn": torch.randn, "randint": partial(torch.randint, low, high)}
        makers["sample"] = lambda shape, generator: torch.randperm(high, generator=generator)[: shape[0]]  # none twice
        value = makers[kind](shape, generator=self.generator)
        self.record[f"draw.{len(self.record):02d}.{kind}"] = value
        return value


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return weight * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Turn neighbouring pairs of (B, T, heads, size) by an angle that grows with the position."""
    size = x.shape[-1]
    angles = positions.to(x.dtype)[:, None] * 10000 ** (-torch.arange(0, size, 2, dtype=x.dtype) / size)
    turns = torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turns).flatten(-2)


def attention(w: Weights, prefix: str, x: Tensor, positions: Tensor, allowed: Tensor, heads: int) -> Tensor:
    q, k, v = ((x @ w[f"{prefix}.{name}.weight"].T).unflatten(-1, (heads, -1)) for name in ("wq", "wk", "wv"))
    scores = torch.einsum("bqhd,bkhd->bhqk", rotate(q, positions), rotate(k, positions)) / q.shape[-1] ** 0.5
    shares = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", shares, v).flatten(-2) @ w[f"{prefix}.wo.weight"].T


def feed_forward(w: Weights, prefix: str, x: Tensor) -> Tensor:
    w1, w2, w3 = (w[f"{prefix}.w{i}.weight"] for i in (1, 2, 3))
    return (F.silu(x @ w1.T) * (x @ w3.T)) @ w2.T


def modulation(w: Weights, prefix: str, condition: Tensor | None, parts: int) -> Sequence[Tensor | float]:
    """The shifts, scales and gates that an adaLN layer reads from the condition; the other forms have none."""
    if condition is None:
        return [0.0, 0.0, 1.0] * 2
    layer = f"{prefix}.adaLN_modulation.1"
    return (F.silu(condition) @ w[f"{layer}.weight"].T + w[f"{layer}.bias"]).chunk(parts, -1)


def blocks(w: Weights, x: Tensor, positions: Tensor, allowed: Tensor, heads: int, condition: Tensor | None = None) -> Tensor:
    for i in range(sum(name.endswith("attention.wq.weight") for name in w)):
        layer = f"transformer.layers.{i}"
        six = modulation(w, layer, condition, 6)
        inner = rms_norm(x, w[f"{layer}.attention_norm.weight"]) * (1 + six[1]) + six[0]
        x = x + six[2] * attention(w, f"{layer}.attention", inner, positions, allowed, heads)
        inner = rms_norm(x, w[f"{layer}.ffn_norm.weight"]) * (1 + six[4]) + six[3]
        x = x + six[5] * feed_forward(w, f"{layer}.feed_forward", inner)
    return rms_norm(x, w["transformer.norm.weight"])


def visible(length: int, extra: int) -> Tensor:
    """Who sees whom in [extra step tokens | observed | predicted]: prediction i sees observed 0..i and itself."""
    seen = extra + length
    allowed = torch.eye(seen + length, dtype=torch.bool)
    allowed[:seen, :seen] = torch.ones(seen, seen).tril().bool()
    allowed[seen:, :seen] = torch.ones(length, seen).tril(extra).bool()
    return allowed


def energies(w: Weights, h: Settings, observed: Tensor, predicted: Tensor, landscape: int) -> Tensor:
    """One energy for each predicted position, (B, S)."""
    rows, length, _ = observed.shape
    kind, extra = h["ebt_type"], int(h["ebt_type"] == "time_embed")
    step = None if kind == "default" else w["transformer.time_embeddings.weight"][landscape]
    tokens = [step.expand(rows, 1, -1)] if extra and step is not None else []
    positions = torch.cat([torch.arange(extra + length), torch.arange(length) + extra + 1])
    condition = step if kind.startswith("adaln") else None
    x = torch.cat([*tokens, observed, predicted], 1)
    x = blocks(w, x, positions, visible(length, extra), h["multiheaded_attention_heads"], condition)[:, extra + length :]
    two = modulation(w, "transformer.final_layer", condition, 2)
    head = w[f"transformer.final_layer.{'weight' if condition is None else 'linear.weight'}"]
    return ((x * (1 + two[1]) + two[0]) @ head.T).squeeze(-1)


def causal(w: Weights, h: Settings, x: Tensor) -> Tensor:
    """Transformer++: a plain causal model with its output layer."""
    allowed = torch.ones(x.shape[1], x.shape[1]).tril().bool()
    return blocks(w, x, torch.arange(x.shape[1]), allowed, h["multiheaded_attention_heads"]) @ w["output.weight"].T


class Task(NamedTuple):
    """What text and video do differently: how a raw candidate is read, what it is called, and its loss."""

    observed: Tensor
    read: Callable[[Tensor], Tensor]
    embed: Callable[[Tensor], Tensor]
    state: str
    loss: Callable[[Tensor], Tensor]


def text(w: Weights, h: Settings, ids: Tensor) -> Task:
    table = w["embeddings.weight"] if h["vocab_to_embed_uses_prob_dist"] else w["vocab_to_embed.weight"].T
    read = (lambda x: x.softmax(-1)) if h["normalize_initial_condition"] else (lambda x: x)
    observed = w["embeddings.weight"][ids[:, :-1]]
    return Task(observed, read, lambda p: p @ table, "logits", lambda x: token_loss(x, ids))


def token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=0)


def video(w: Weights, h: Settings, frames: Tensor) -> Task:
    weight, bias = (w.get(f"encoder_down_projection.{name}") for name in ("weight", "bias"))
    embed = (lambda x: x) if weight is None else (lambda x: F.linear(x, weight, bias))
    return Task(embed(frames[:, :-1]), lambda x: x, embed, "prediction", lambda x: F.smooth_l1_loss(x, frames[:, 1:]))


def look(w: Weights, h: Settings, task: Task, state: Tensor, landscape: int, noise: Tensor | float) -> tuple[Tensor, Tensor]:
    """The variable that energies are differentiated by, and the energies. Noise: in text's state, in video's embedding."""
    in_state, in_view = (noise, 0.0) if task.state == "logits" else (0.0, noise)
    point = task.read(state + in_state)
    return point, energies(w, h, task.observed, task.embed(point) + in_view, landscape)


def langevin(draws: Draws, std: float, like: Tensor) -> Tensor | float:
    return max(std, 1e-6) * draws.take("randn", tuple(like.shape)).to(like.dtype) if std else 0.0


def update(w: Weights, h: Settings, point: Tensor, energy: Tensor, alpha: Tensor, graph: bool) -> Tensor:
    (slope,) = torch.autograd.grad(energy.sum(), point, create_graph=graph)
    if h["clamp_futures_grad"]:
        bound = h["clamp_futures_grad_max_change"] / float(w["alpha"].detach())
        slope = slope.clamp(-bound, bound)
    return point - alpha * slope


def drawn_alpha(w: Weights, h: Settings, draws: Draws, shape: tuple[int, ...], training: bool) -> Tensor:
    alpha, scale = w["alpha"].clamp(min=1e-4), h["randomize_mcmc_step_size_scale"]
    if scale == 1 or not training:
        return alpha
    return alpha / scale + draws.take("rand", (*shape, 1)).to(alpha.dtype) * (alpha * scale - alpha / scale)


def drawn_landscapes(h: Settings, draws: Draws, training: bool) -> list[int]:
    """The landscape of each step: every one at least once, more often where the number of steps is random."""
    count, most = h["mcmc_num_steps"], h["randomize_mcmc_num_steps"] + 1
    repeats = [1] * (count - 1) + [most]
    if training and most > 1:
        for i in range(count - 1 if h["randomize_mcmc_num_steps_final_landscape"] else 0, count):
            repeats[i] = int(draws.take("randint", (1,), h["randomize_mcmc_num_steps_min"] or 1, most + 1))
    return [i for i, times in enumerate(repeats) for _ in range(times)]


def forward(
    w: Weights, h: Settings, task: Task, start: Start, draws: Draws, training: bool = True, old: Sequence[Tensor] = ()
) -> Named:
    """One training or evaluation forward from start(rows), which may ask for draws of its own; old states replace its end."""
    rows, length, _ = task.observed.shape
    alpha = drawn_alpha(w, h, draws, (rows, length), training)
    state = torch.cat([start(rows)[: rows - len(old)], *old]).detach().requires_grad_()
    landscapes = drawn_landscapes(h, draws, training)
    found: Named = {}
    for i, landscape in enumerate(landscapes):
        if not h["no_mcmc_detach"]:
            state = state.detach().requires_grad_()
        noise = langevin(draws, h["langevin_dynamics_noise"], state if task.state == "logits" else task.observed)
        point, energy = look(w, h, task, state, landscape, noise)
        state = update(w, h, point, energy, alpha, not h["truncate_mcmc"] or i == len(landscapes) - 1)
        found |= {f"energy.{i}": energy, f"{task.state}.{i}": state}
    losses = [task.loss(found[f"{task.state}.{i}"]) for i in range(len(landscapes))]
    loss, gap = losses[-1] if h["truncate_mcmc"] else torch.stack(losses).mean(), found["energy.0"].mean() - energy.mean()
    found |= {"loss": loss, "initial_loss": losses[0], "final_step_loss": losses[-1], "energy_gap": gap}
    return found | ({"perplexity": losses[-1].exp()} if task.state == "logits" else {})


def inference_landscapes(h: Settings) -> list[int]:
    steps, count = h["infer_ebt_num_steps"], h["mcmc_num_steps"]
    if h["ebt_type"] == "default":
        return [0] * (steps if steps > 1 else count)
    inner = steps if steps > 1 else (h["randomize_mcmc_num_steps_min"] or 1)
    repeats = [1] * (count - 1) + [inner] if h["infer_steps_final_landscape"] else [inner] * count
    return [i for i, times in enumerate(repeats) for _ in range(times)]


def infer(w: Weights, h: Settings, ids: Tensor, starts: Tensor, draws: Draws) -> Named:
    """Think for G samples of each row, (B*G) in chunks of B rows, and keep at every position the sample that the rule picks."""
    rows, samples, task = len(ids), h["infer_generated_samples"], text(w, h, ids)
    observed = task.observed.repeat_interleave(samples, 0).split(rows)
    pieces = [
        settle(w, h, task._replace(observed=x), start, draws) for x, start in zip(observed, starts.split(rows), strict=True)
    ]
    found = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
    count = len(inference_landscapes(h))
    first, last = found["energy.0"], found[f"energy.{count}"]
    rule = {"min": -last, "max": last, "max_gap": first - last}[h["infer_energy_sampling_technique"]]
    best = rule.unflatten(0, (rows, samples)).argmax(1)
    states = found["state.last_all_samples"].unflatten(0, (rows, samples))
    index = best[:, None, :, None].expand(-1, 1, -1, states.shape[-1])
    return found | {"best_index": best, "final_logits": states.gather(1, index).squeeze(1)}


def settle(w: Weights, h: Settings, task: Task, state: Tensor, draws: Draws) -> Named:
    """Energies before every update and at the end, and the final state."""
    std = h["infer_langevin_dynamics_noise"] or float(w["langevin_dynamics_noise_std"])
    override, trained = h["infer_ebt_override_alpha"], w["alpha"]
    alpha = trained if override == 0 else trained * override if override < 1 else torch.full_like(trained, override)
    landscapes, found = inference_landscapes(h), Named()
    for i, landscape in enumerate(landscapes):
        point, energy = look(w, h, task, state.detach().requires_grad_(), landscape, langevin(draws, std, state))
        state = update(w, h, point, energy, alpha, False)
        found[f"energy.{i}"] = energy
    found[f"energy.{len(landscapes)}"] = look(w, h, task, state, landscapes[-1], 0.0)[1]
    return found | {"state.last_all_samples": state}


def replay(w: Weights, h: Settings, batches: list[Tensor], start: Start, draws: Draws) -> Iterator[Named]:
    """Training forwards with a replay buffer: rows of old batches follow the fresh ones, which alone are stored."""
    buffer: list[tuple[Tensor, Tensor]] = []
    for ids in batches:
        count = min(int(len(ids) * h["mcmc_replay_buffer_sample_bs_percent"]), len(buffer))
        old = [buffer[int(i)] for i in draws.take("sample", (count,), 0, len(buffer))] if count else []
        batch = torch.cat([ids, *(row[None] for row, _ in old)])
        found = forward(w, h, text(w, h, batch), start, draws, old=[state[None] for _, state in old])
        last = [state for name, state in found.items() if name.startswith("logits.")][-1]
        buffer = [*buffer, *zip(ids, last[: len(ids)].detach(), strict=True)][-h["mcmc_replay_buffer_size"] :]
        kept = {name: value for name, value in found.items() if name.startswith("energy.") or name == "loss"}
        kept |= {"final_logits": last, "batch_input_ids": batch[:, :-1], "buffer_len": torch.tensor(len(buffer))}
        yield kept | ({"replay_logits": torch.stack([state for _, state in old])} if old else {})
