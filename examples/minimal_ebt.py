"""Energy-Based Transformers in one file: train one on text, then let it think longer.

An Energy-Based Transformer (Gladstone et al., arXiv 2507.02092) does not output its prediction. It assigns an energy E(x, y) to
a context x and a candidate y, low where y fits x, and finds its prediction by descending from a random start:

    y[i+1] = y[i] - alpha * dE(x, y[i]) / dy

The energies are never supervised: training back-propagates an ordinary loss at y[i+1] through the step, by the gradient of a
gradient. After training, the model can take more steps, and keep the lowest-energy candidate of several.

`python examples/minimal_ebt.py` takes a minute on two cores and trains on the help topics of Python.
Shapes: B contexts, S positions of which the last N have a candidate each, V = 256 bytes, D width, H heads.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

import torch
import torch.nn.functional as F
from torch import Tensor, nn

V = 256
Pair = tuple[Tensor, Tensor]
Context = tuple[Tensor, list[Pair]]


class Block(nn.Module):
    """Transformer++ block: attention and SwiGLU, each after RMSNorm, without biases."""

    def __init__(self, dim: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.norm, self.norm2 = heads, nn.RMSNorm(dim), nn.RMSNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.up, self.down = nn.Linear(dim, 4 * dim, bias=False), nn.Linear(2 * dim, dim, bias=False)

    def forward(self, x: Tensor, context: Pair | None = None) -> tuple[Tensor, Pair]:
        """Process a context (B, S, D) or, given its keys and values, candidates (B, N, D) for what follows its last positions.

        A candidate attends to itself and to the context up to its position; the context attends to no candidate. All positions
        therefore think at once without seeing their targets, and the context is computed once for all steps.
        """
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1))
        keys, values = (k, v) if context is None else context
        scores = q @ keys.transpose(-1, -2) / math.sqrt(q.shape[-1])  # fused attention cannot be differentiated twice
        later = torch.ones(scores.shape[-1], scores.shape[-1], dtype=torch.bool, device=x.device).triu(1)
        scores = scores.masked_fill(later[-q.shape[-2] :], -math.inf)
        seen = scores.softmax(-1) @ values
        if context is not None:
            own = (q * k).sum(-1, keepdim=True) / math.sqrt(q.shape[-1])
            weights = torch.cat((scores, own), -1).softmax(-1)
            seen = weights[..., :-1] @ values + weights[..., -1:] * v
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        gate, value = self.up(self.norm2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * value), (k, v)


class EnergyTransformer(nn.Module):
    """E(x, y): a causal transformer with one output per candidate instead of V logits."""

    def __init__(self, context: int, dim: int = 64, layers: int = 2, alpha: float = 10.0) -> None:
        super().__init__()
        self.vocabulary = nn.Parameter(torch.randn(V, dim) / math.sqrt(dim))
        self.position = nn.Parameter(0.02 * torch.randn(context, dim))
        self.blocks = nn.ModuleList(Block(dim) for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(dim), nn.Linear(dim, dim, bias=False)
        # The landscape is flat at first: the loss is that of guessing, ln V, for any alpha.
        nn.init.zeros_(self.head.weight)
        self.log_alpha = nn.Parameter(torch.tensor(math.log(alpha)))

    def read(self, tokens: Tensor) -> Context:
        """Encode a context (B, S) for its candidates: the last hidden states, and the keys and values of each layer."""
        x, memory = self.vocabulary[tokens] + self.position[: tokens.shape[1]], []
        for block in self.blocks:
            x, pair = block(x)
            memory.append(pair)
        return F.rms_norm(x, x.shape[-1:]), memory

    def energy(self, context: Context, y: Tensor) -> Tensor:
        """Energies (B, N) of candidates y (B, N, V): probabilities of the bytes after the last N positions."""
        hidden, memory = context
        candidate = y @ self.vocabulary  # (B, N, D)
        x = hidden[:, -y.shape[1] :] + math.sqrt(candidate.shape[-1]) * candidate  # both have about unit variance
        for block, pair in zip(self.blocks, memory, strict=True):
            x, _ = block(x, pair)
        return -(candidate * self.head(self.norm(x))).sum(-1)


def think(model: EnergyTransformer, context: Context, steps: int, last: int | None = None) -> Iterator[Pair]:
    """Descend from a random start by the equation above, at all positions or at the ``last`` ones.

    Yields the logits (B, N, V) after each step, and the energies (B, N) of the candidates before it.
    """
    y = torch.randn(*context[0][:, -last if last else None :].shape[:2], V).softmax(-1)
    for _ in range(steps):
        y = y.detach().requires_grad_()  # the paper's S1 recipe: the loss of a step does not reach earlier steps
        with torch.enable_grad():
            energy = model.energy(context, y)
            # No prediction sees another, so the gradient of the sum is that of each prediction. Training needs its graph.
            (slope,) = torch.autograd.grad(energy.sum(), y, create_graph=model.training)
            moved = y.detach() - model.log_alpha.exp() * slope
        yield moved, energy.detach()
        y = moved.softmax(-1)  # back to where candidates live: probabilities


def batch(text: Tensor, rows: int, length: int) -> Pair:
    """Contexts (B, S) from random places of a text, and the byte after each position."""
    window = text[torch.randint(len(text) - length, (rows, 1)) + torch.arange(length + 1)]
    return window[:, :-1], window[:, 1:]


def train(model: EnergyTransformer, text: Tensor, args: argparse.Namespace) -> None:
    """Train with AdamW, warm-up and cosine decay, and a loss after every thinking step."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3, betas=(0.9, 0.98), weight_decay=0.01)
    warm_up, began = max(1, args.updates // 20), time.monotonic()
    for update in range(1, args.updates + 1):
        decay = 0.05 + 0.95 * (1 + math.cos(math.pi * update / args.updates)) / 2
        optimiser.param_groups[0]["lr"] = 5e-3 * min(1.0, update / warm_up) * decay
        tokens, targets = batch(text, args.rows, args.context)
        steps = think(model, model.read(tokens), args.steps)
        loss = torch.stack([F.cross_entropy(y.flatten(0, 1), targets.flatten()) for y, _ in steps]).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if update % max(1, args.updates // 20) == 0:
            left = (time.monotonic() - began) / update * (args.updates - update)
            print(f"update {update} of {args.updates}: loss {loss.item():.3f}, {left:.0f} s left", flush=True)


@torch.no_grad()
def think_longer(model: EnergyTransformer, tokens: Tensor, targets: Tensor) -> list[tuple[float, float]]:
    """Loss and energy after 1 to 8 steps."""
    states, energies = zip(*think(model, model.read(tokens), 9), strict=True)  # the ninth gives the energy after the eighth
    losses = [F.cross_entropy(y.flatten(0, 1), targets.flatten()).item() for y in states[:8]]
    return [(loss, energy.mean().item()) for loss, energy in zip(losses, energies[1:], strict=True)]


@torch.no_grad()
def best_of(model: EnergyTransformer, tokens: Tensor, targets: Tensor, candidates: int = 4) -> dict[str, float]:
    """Self-verification: loss after one step of the lowest-energy candidate, chosen per byte, and of other choices."""
    context, found = model.read(tokens), list[Pair]()
    for _ in range(candidates):
        (logits, _), (_, energy) = think(model, context, 2)
        found.append((F.cross_entropy(logits.transpose(1, 2), targets, reduction="none"), energy))
    losses, energies = (torch.stack(part) for part in zip(*found, strict=True))
    picked = {"lowest energy": energies.argmin(0), "highest": energies.argmax(0), "the first": torch.zeros_like(targets)}
    return {name: losses.gather(0, index[None]).mean().item() for name, index in picked.items()}


@torch.no_grad()
def sample(model: EnergyTransformer, tokens: Tensor, args: argparse.Namespace) -> str:
    """Continue a prompt (S,) byte by byte; only the last position thinks."""
    for _ in range(args.length):
        *_, (logits, _) = think(model, model.read(tokens[None, -args.context :]), args.steps, last=1)
        tokens = torch.cat((tokens, (logits[0, 0] / 0.7).softmax(-1).multinomial(1)))
    return bytes(tokens.tolist()).decode(errors="replace")


OPTIONS = {
    "updates": (500, "training updates"),
    "rows": (16, "contexts per update"),
    "context": (64, "bytes per context"),
    "steps": (2, "thinking steps in training and in samples"),
    "length": (200, "bytes to sample"),
}


def main(argv: list[str] | None = None) -> tuple[list[tuple[float, float]], dict[str, float]]:
    """Train, then think longer, verify and sample on the last tenth of the text, which is held out."""
    options = argparse.ArgumentParser(description="Train an Energy-Based Transformer on a text, then let it think longer.")
    options.add_argument("text", nargs="?", help="file to train on (default: the help topics of Python)")
    for name, (value, what) in OPTIONS.items():
        options.add_argument(f"--{name}", type=type(value), default=value, help=f"{what} (default: {value})")
    args = options.parse_args(argv)
    data = Path(args.text).read_bytes() if args.text else "\n\n".join(topics[name] for name in sorted(topics)).encode()
    text = torch.frombuffer(bytearray(data), dtype=torch.uint8).long()
    learned, held_out = text.split([len(text) - len(text) // 10, len(text) // 10])
    torch.manual_seed(0)
    model = EnergyTransformer(args.context)
    print(f"{len(learned):,} bytes to train on; the loss of guessing is ln {V} = {math.log(V):.3f}")
    train(model, learned, args)
    model.eval()
    tokens, targets = batch(held_out, 4 * args.rows, args.context)
    print(f"Thinking longer than the {args.steps} steps of training:\nsteps   loss  energy")
    for step, (loss, energy) in enumerate(curve := think_longer(model, tokens, targets), 1):
        print(f"{step:5} {loss:6.4f} {energy:7.4f}")
    verified = best_of(model, tokens, targets)
    print("\nSelf-verification, one step:", ", ".join(f"{name} {loss:.4f}" for name, loss in verified.items()))
    print("\n" + sample(model, held_out[: args.context], args))
    return curve, verified


if __name__ == "__main__":
    main()
