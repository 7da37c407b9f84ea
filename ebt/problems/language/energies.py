"""Token energies: the energy of the prediction of each token of a text after each thinking step (paper, figure 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.convert_slow_tokenizer import bytes_to_unicode

from ebt.errors import InputError
from ebt.evaluation.alarms import alarms
from ebt.problems.language.tokenizers import encode

BYTES = {letter: byte for byte, letter in bytes_to_unicode().items()}
"""Byte values by the characters that byte-level tokenizers use for them."""


@dataclass(frozen=True)
class TokenEnergies:
    """Predictions of the S tokens of a text, each from the tokens before it."""

    tokens: list[str]
    """Tokens as text. Bytes that are not a whole character are written as ``<C3>``."""
    ids: list[int]
    energies: list[list[float]]
    """(T + 1, S) energies of the predictions, before each step and after the last."""
    probability: list[float]
    """(S) probability of the true token after the last step."""
    nats: list[float]
    """(S) surprise at the true token, ``-log(probability)``."""
    predicted: list[str]
    """The most probable tokens."""
    alarms: tuple[str, ...] = ()


@torch.no_grad()
def token_energies(model: Any, tokenizer: Any, text: str, steps: int, seed: int = 0) -> TokenEnergies:
    """Think about all tokens of a text at once.

    As in training, the text is preceded by the end-of-text token and the special tokens that the tokenizer begins a text with.

    Args:
        model: An ``EBTForCausalLM``.
        tokenizer: Its Hugging Face tokenizer.
        text: At most ``model.config.context_length`` tokens, with those that precede it.
        steps: T.
        seed: Seed of the random starts.

    Raises:
        InputError: If the text is empty or too long, or ``steps`` is below 1.
    """
    begin, ids = encode(tokenizer, [""])[0], encode(tokenizer, [text], begin=False)[0]
    limit = model.config.context_length - len(begin)
    if not ids or len(ids) > limit:
        raise InputError(f"The text has {len(ids)} tokens: give 1 to {limit}, the context of the model.")
    if steps < 1:
        raise InputError(f"steps is {steps}: thinking needs at least 1.")
    inputs = torch.tensor([[tokenizer.eos_token_id, *begin, *ids][:-1]], device=model.device)
    thought = model.think(inputs, predictions=len(ids), steps=steps, candidates=1, seed=seed)
    geometry = thought.geometry
    nats = geometry.loss(thought.state, torch.tensor([ids], device=model.device))[0]
    return TokenEnergies(
        tokens=[_as_text(tokenizer, i) for i in ids],
        ids=ids,
        energies=thought.energies[:, 0].tolist(),
        probability=(-nats).exp().tolist(),
        nats=nats.tolist(),
        predicted=[_as_text(tokenizer, i) for i in thought.answer[0].tolist()],
        alarms=tuple(alarms(thought)),
    )


def _as_text(tokenizer: Any, token: int) -> str:
    text: str = tokenizer.decode([token])
    letters = tokenizer.convert_ids_to_tokens(token)
    if "\ufffd" not in text or any(letter not in BYTES for letter in letters):
        return text
    return "".join(f"<{BYTES[letter]:02X}>" if BYTES[letter] > 127 else chr(BYTES[letter]) for letter in letters)
