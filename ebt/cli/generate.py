"""``ebt generate``: continue a text, token by token, while it is written to the terminal."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import suppress
from typing import Any

from ebt.cli.terminal import RULE_HELP, WORD_RULES, Options, count_from, number_in, read_text, scaled_and_noisy
from ebt.errors import InputError

NEW_TOKENS = 200
THINKING = ("steps", "candidates", "rule", "tolerance")
SAMPLING = ("temperature", "top_k", "top_p")


def _options() -> Options:
    options = Options(
        "generate",
        "Continue a prompt. The text streams to the terminal; one line of statistics follows on the error stream. Past "
        "the model's context, it sees the last tokens that fit.",
        'ebt generate --checkpoint runs/text --prompt "The function returns" --steps 4 --candidates 2 --seed 1',
    )
    options.checkpoint()
    prompt = options.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="TEXT", help="text to continue")
    prompt.add_argument("--prompt-file", metavar="FILE", help="file with the text to continue, UTF-8")
    options.add_argument(
        "--max-new-tokens", type=count_from(1), metavar="N", help=f"default: {NEW_TOKENS}, or what the model's context leaves"
    )
    thinking = options.add_argument_group("thinking (defaults: those of the model)")
    thinking.add_argument("--steps", type=count_from(1), metavar="N", help="thinking steps per token")
    thinking.add_argument("--candidates", type=count_from(1), metavar="M", help="candidates per token")
    thinking.add_argument("--rule", choices=WORD_RULES, help=RULE_HELP)
    thinking.add_argument(
        "--tolerance", type=number_in(0), metavar="T", help="stop thinking when the probabilities move by less than this"
    )
    options.scale_and_noise(thinking)
    sampling = options.add_argument_group("sampling")
    sampling.add_argument("--greedy", action="store_true", help="always take the most probable token")
    sampling.add_argument("--temperature", type=_temperature, metavar="T", help="default: 1")
    sampling.add_argument(
        "--top-k", type=count_from(1), metavar="K", help="draw from the K most probable tokens (default: all)"
    )
    sampling.add_argument("--top-p", type=number_in(0, 1), metavar="P", help="draw from the top P of probability (default: 1)")
    options.seed("the sampling and of the random starts")
    return options


def main(argv: list[str]) -> int:
    """Run the command."""
    args = _options().parse_args(argv)
    if args.greedy and (given := [f"--{name.replace('_', '-')}" for name in SAMPLING if getattr(args, name) is not None]):
        raise InputError(f"--greedy contradicts {', '.join(given)}: leave one out.")
    text = args.prompt if args.prompt is not None else read_text(args.prompt_file)
    if not text:
        raise InputError("The prompt is empty: give at least one character to continue.")
    import torch
    from transformers import TextStreamer

    from ebt.problems.folder import load_folder, load_tokenizer_of
    from ebt.problems.language.tokenizers import encode

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
    given = {name: getattr(args, name) for name in THINKING if getattr(args, name) is not None}
    thinks = model.config.model_type == "ebt"
    more = scaled_and_noisy(args, [model], args.candidates or (model.thinking.candidates if thinks else 1))
    if thinks:
        return {**given, **more, "seed": args.seed}
    if given:
        raise InputError(f"{args.checkpoint} is a feed-forward model, which does not think: leave out --{', --'.join(given)}.")
    return {}


def _temperature(text: str) -> float:
    with suppress(ValueError):
        if float(text) == 0:
            raise argparse.ArgumentTypeError(f"{text} always takes the most probable token: give --greedy instead")
    return number_in(0)(text)


def _sampling(args: argparse.Namespace) -> dict[str, Any]:
    if args.greedy:
        return {"do_sample": False}
    chosen = {name: getattr(args, name) for name in SAMPLING if getattr(args, name) is not None}
    return {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, **chosen}


def _statistics(output: Any, prompt: int, seconds: float) -> str:
    tokens = output.sequences.shape[1] - prompt
    line = f"{tokens} tokens in {seconds:.1f} s, {tokens / seconds:.1f} tokens/s"
    if "energies" not in output:
        return f"[{line}]"
    steps = sum(taken.float().mean().item() for taken in output.steps) / len(output.steps)
    energy = sum(energies[-1].float().mean().item() for energies in output.energies) / len(output.energies)
    return f"[{line}, {steps:.1f} steps per token, mean energy {energy:.4g}]"
