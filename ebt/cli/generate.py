"""``ebt generate``: continue a prompt and stream the text to the terminal."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import torch
from transformers import TextStreamer

from ebt.cli.options import NEW_TOKENS
from ebt.cli.terminal import given, scaled_and_noisy, text_of
from ebt.errors import InputError
from ebt.problems.folder import load_folder, load_tokenizer_of
from ebt.problems.language.tokenizers import encode

THINKING = ("steps", "candidates", "rule", "tolerance")
SAMPLING = ("temperature", "top_k", "top_p")


def main(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.greedy and (wrong := [f"--{name.replace('_', '-')}" for name in given(args, SAMPLING)]):
        raise InputError(f"--greedy contradicts {', '.join(wrong)}: leave out one of them.")
    if not (text := text_of(args)):
        raise InputError("The prompt is empty: give at least one character to continue.")
    model, tokenizer = load_folder(args.checkpoint, ("ebt", "ebt_transformer_pp")), load_tokenizer_of(args.checkpoint)
    thinking = _thinking(args, model)
    ids = torch.tensor([encode(tokenizer, [text])[0]])
    room = model.config.context_length - ids.shape[1]
    torch.manual_seed(args.seed)
    sys.stdout.write(text)
    sys.stdout.flush()
    began = time.perf_counter()
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=args.max_new_tokens or (min(NEW_TOKENS, room) if room > 0 else NEW_TOKENS),
        streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True),
        return_dict_in_generate=True,
        pad_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **_sampling(args),
        **thinking,
    )
    print(_statistics(output, ids.shape[1], time.perf_counter() - began), file=sys.stderr)
    return 0


def _thinking(args: argparse.Namespace, model: Any) -> dict[str, Any]:
    own = given(args, THINKING)
    thinks = model.config.model_type == "ebt"
    more = scaled_and_noisy(args, [model], args.candidates or (model.thinking.candidates if thinks else 1))
    if thinks:
        return {**own, **more, "seed": args.seed}
    if own:
        raise InputError(f"{args.checkpoint} is a feed-forward model and does not think: leave out --{', --'.join(own)}.")
    return {}


def _sampling(args: argparse.Namespace) -> dict[str, Any]:
    if args.greedy:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, **given(args, SAMPLING)}


def _statistics(output: Any, prompt: int, seconds: float) -> str:
    tokens = output.sequences.shape[1] - prompt
    line = f"{tokens} tokens in {seconds:.1f} s, {tokens / seconds:.1f} tokens/s"
    if "energies" not in output:
        return f"[{line}]"
    steps = sum(taken.float().mean().item() for taken in output.steps) / len(output.steps)
    energy = sum(energies[-1].float().mean().item() for energies in output.energies) / len(output.energies)
    return f"[{line}, {steps:.1f} steps per token, mean energy {energy:.4g}]"
