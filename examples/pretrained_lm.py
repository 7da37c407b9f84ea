"""A pretrained language model that learns to think: its last layers, trained as an energy of the next token.

Before training the answer is that of the language model after every number of steps. Training moves a copy of the last layers,
which sees the candidate, and leaves the language model as it is.

`python examples/pretrained_lm.py MODEL text.txt` takes a folder or a name on the Hugging Face hub (Llama, Mistral, Qwen, Gemma
and others with rotary positions) and a text file. The last tenth of the text measures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from ebt.interop.pretrained import ThinkingLayers
from ebt.thinking import Recipe, Restart, descend, supervise

STEPS = 4
ROWS = 8


def windows(ids: Tensor, length: int) -> Tensor:
    """Token ids as rows of one context and the token that follows it."""
    if len(ids) <= length:
        raise SystemExit(f"the text has {len(ids)} tokens, at most the length of one context: give a longer text, or --context")
    return ids[: len(ids) // (length + 1) * (length + 1)].view(-1, length + 1)


def losses(network: ThinkingLayers, rows: Tensor) -> list[float]:
    """Mean loss in nats a token after 0 to ``STEPS`` steps."""
    geometry, total = network.geometry(), torch.zeros(STEPS + 1)
    for part in rows.split(ROWS):
        landscape = network.encode(part[:, :-1])
        thought = descend(landscape, landscape.start, steps=STEPS, step_size=1.0, geometry=geometry, update=Restart())
        total += torch.stack([geometry.loss(state, part[:, 1:]).sum() for state in thought.path])
    return (total / rows[:, 1:].numel()).tolist()


def show(when: str, found: list[float]) -> None:
    print(f"{when}, loss after 0 to {STEPS} steps:", "  ".join(f"{loss:.4f}" for loss in found))


def main(argv: list[str] | None = None) -> tuple[list[float], list[float]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--layers", type=int, default=6, help="number of last layers that think")
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--context", type=int, default=128, help="tokens of a context")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    options = parser.parse_args(argv)

    torch.manual_seed(0)
    tokenizer, model = AutoTokenizer.from_pretrained(options.model), AutoModelForCausalLM.from_pretrained(options.model).eval()
    ids = tokenizer(options.text.read_text(encoding="utf-8"), return_tensors="pt", verbose=False).input_ids[0]
    train, test = windows(ids[: len(ids) * 9 // 10], options.context), windows(ids[len(ids) * 9 // 10 :], options.context)
    network = ThinkingLayers(model, options.layers).train()
    geometry, recipe = network.geometry(), Recipe.s1(2)
    optimiser = torch.optim.AdamW(network.parameters(), options.learning_rate)
    before = losses(network, test)
    show("before training", before)
    for update in range(options.updates):
        batch = train[torch.randint(len(train), (ROWS,))]
        landscape = network.encode(batch[:, :-1])
        found = supervise(landscape, geometry, Restart(), landscape.start, batch[:, 1:], 1.0, recipe)
        optimiser.zero_grad()
        found.loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        if update % 10 == 0:
            print(f"update {update}, training loss after each step:", "  ".join(f"{loss:.4f}" for loss in found.losses))
    after = losses(network, test)
    show("after training", after)
    return before, after


if __name__ == "__main__":
    main()
