"""``ebt study NAME``: run a study with several seeds, and write a page of results."""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ebt.cli.parser import Options, count_from, counts, number_in
from ebt.cli.terminal import out_folder, plain_table, print_table, say_written
from ebt.errors import unknown
from ebt.lab.studies import STUDIES

FOLDER = "runs/studies"
PROSE = 40
"""Table cells with more characters are treated as prose."""


def main(argv: list[str]) -> int:
    """Run a study. Continues an interrupted study."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0
    name, *rest = argv
    if name not in STUDIES:
        raise unknown("study", name, STUDIES, "ebt study")
    args, console = _options(name).parse_args(rest), Console()
    args.seeds = args.seeds or (2 if args.quick else 3)
    args.out = args.out or f"{FOLDER}/{name}{'-quick' if args.quick else ''}"
    out = out_folder(args.out) or Path()
    _execute(name, args, out, told(["ebt", "study", name, *rest]), console)
    return 0


def told(words: Sequence[str]) -> str:
    """Format a command for its page. Files outside the current folder are shown by name only."""
    parts = [word.rpartition("=") for word in words]
    return shlex.join(
        f"{option}{equals}{Path(path).name}" if path.startswith(("/", "..", "~")) else word
        for word, (option, equals, path) in zip(words, parts, strict=True)
    )


def _execute(name: str, args: argparse.Namespace, out: Path, command: str, console: Console) -> None:
    study: Any = importlib.import_module(f"ebt.lab.studies.{name}")
    plan = study.plan(args)
    stages = study.stages(plan)
    console.print(f"{_sentence(STUDIES[name])}\nResults are written to {out}/.", highlight=False)
    results = gather(stages, args.jobs, console)
    finish(name, study.report(plan, results), command, results, out, console)


def gather(stages: Any, jobs: int, console: Console, devices: Sequence[str] = ()) -> Any:
    """Return the results of all runs, and execute missing ones; see ``ebt.lab.studies.runs.collect``."""
    from ebt.lab.studies import runs

    try:
        return runs.collect(stages, jobs, console, devices)
    except (KeyboardInterrupt, SystemExit):
        console.print("Interrupted. Finished runs are kept: run the same command to continue.", highlight=False)
        raise


def finish(name: str, made: Any, command: str, results: Any, out: Path, console: Console) -> None:
    """Print a page, and write it with its numbers."""
    from ebt.lab.studies import page

    for table in made.tables:
        shown = plain_table()
        for i, head in enumerate(table.head):
            prose = i == 0 or any(len(row[i]) > PROSE for row in table.rows)
            shown.add_column(head, justify="left" if prose else "right", overflow="fold")
        for row in table.rows:
            shown.add_row(*row)
        print_table(console, table.title, shown, table.note)
    for verdict in made.verdicts:
        mark = Text("met   ", "green") if verdict.met else Text("missed", "bold red")
        console.print(mark + Text(f" {verdict.name}. {verdict.text}"), highlight=False)
    say_written(console, page.publish(name, made, command, results.values(), out))


def _help() -> str:
    width = max(map(len, STUDIES))
    lines = [f"  {name:<{width}}  {what}" for name, what in STUDIES.items()]
    return "\n".join(
        [
            "Train and measure many models with several seeds, and write a page of results with intervals.",
            "",
            "usage: ebt study NAME [OPTIONS]",
            "",
            "studies:",
            *lines,
            "",
            "`ebt study NAME --help` lists the options of a study. A full study takes hours; with --quick, about a minute.",
            "",
            "example:",
            "  ebt study ablation --quick",
        ]
    )


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text[-1] in "?)" else ".")


def _options(name: str) -> Options:
    more, example = OPTIONS[name]
    options = Options(
        f"study {name}",
        f"{_sentence(STUDIES[name])}\n"
        "The result of each run is a small file in --out or in --models. An interrupted study continues where it stopped.\n"
        "After a change of the code, start with empty folders.",
        example,
    )
    add = options.add_argument
    add("--quick", action="store_true", help="tiny study of about a minute, to check that everything works")
    add("--seeds", type=count_from(1), metavar="N", help="number of seeds (default: 3; quick: 2)")
    cores = os.cpu_count() or 1
    add("--jobs", type=count_from(1), default=cores, metavar="N", help=f"parallel runs, one thread each (default: {cores})")
    add("--out", metavar="DIR", help=f"output folder (default: {FOLDER}/{name}, or {FOLDER}/{name}-quick)")
    more(options)
    return options


def _text(options: Options) -> None:
    add, whole = options.add_argument, count_from(1)
    _corpus(options)
    add("--validation", metavar="FILE", help="held-out text (default: a tenth of the training documents)")
    add("--tokenizer", default="bytes", metavar="NAME", help="bytes (default) or a saved tokenizer")
    add("--updates", type=whole, metavar="N", help="updates per training run (default: 1000; quick: 4)")
    add("--contexts", type=whole, metavar="N", help="contexts per measurement (default: 256; quick: 8)")
    add("--steps", type=counts, metavar="N,N,..", help="numbers of thinking steps (default: 1,2,3,4,6,8,12; quick: 1,2,3,4)")
    add("--candidates", type=count_from(2), metavar="M", help="candidates of self-verification (default: 5 or 8; quick: 3)")
    noise = "standard deviation of Langevin noise, for all candidates except the first (default: 0)"
    add("--candidate-noise", type=number_in(-1e-9), default=0.0, metavar="X", help=noise)
    add("--models", default=f"{FOLDER}/text", metavar="DIR", help=f"models shared by studies (default: {FOLDER}/text)")


def _ood(options: Options) -> None:
    _text(options)
    add = options.add_argument
    add("--set", action="append", default=[], metavar="NAME=FILE", help="additional text to measure: .txt, .jsonl, .json (.gz)")
    add("--sets", metavar="DIR", help="folder of such texts; --train and --validation are left out")


def _stability(options: Options) -> None:
    add, numbers = options.add_argument, _list_of(number_in(0))
    add(
        "--parameterisations",
        type=names("ours", "reference"),
        default=["ours", "reference"],
        metavar="A,B",
        help="parameterisations to compare (default: both)",
    )
    add("--recipes", type=names("own", "s1", "s2"), metavar="A,B,..", help="recipes (default: own,s1,s2; quick: s1)")
    add("--lr", type=numbers, metavar="X,Y,..", help="learning rates (default: 0.001,0.004,0.016; quick: 0.004)")
    add("--step-sizes", type=numbers, metavar="X,Y,..", help="initial step sizes (default: 1,10,100,1000; quick: 1,1000)")
    add("--updates", type=count_from(1), metavar="N", help="updates per training run (default: 100; quick: 4)")
    _corpus(options)


def _sudoku(options: Options) -> None:
    add, whole = options.add_argument, count_from(1)
    add("--size", type=int, choices=(4, 6, 9), default=9, help="size of the boards (default: 9)")
    add("--collection", metavar="FILE", help="CSV file of puzzles with few givens, such as 17 (default: generated puzzles)")
    add("--puzzles", type=whole, metavar="N", help="training puzzles (default: 4000; 9x9: 50000, or the whole collection)")
    add("--givens", type=counts, metavar="A,B", help="range of givens in training (default: by size)")
    add("--test-givens", type=counts, metavar="N,N,..", help="numbers of givens of the test sets (default: by size)")
    hard = "also test on puzzles that need this many guesses of a solver, with the fewest test givens (default: do not)"
    add("--guesses", type=whole, metavar="N", help=hard)
    add("--symmetries", action="store_true", help="also permute lines and bands in training, for few puzzles")
    add("--no-rules", action="store_true", help="do not tell models which cells share a row, a column or a box")
    add("--kinds", type=names(*SUDOKU_KINDS), metavar="A,B,..", help=f"models (default: {','.join(SUDOKU_KINDS)})")
    add("--layers", type=whole, default=4, metavar="N", help="layers of each model (default: 4)")
    add("--dim", type=whole, default=64, metavar="N", help="width of each model (default: 64)")
    add("--batch-size", type=whole, metavar="B", help="boards per update (default: 64; 9x9: 32)")
    add("--minutes", type=number_in(0), metavar="M", help="minutes of processor time to train each model (default: 30)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="device (default: cpu; cuda: --minutes is wall-clock time)")
    add("--boards", type=whole, metavar="N", help="test boards per number of givens (default: 500)")
    add("--steps", type=counts, metavar="N,N,..", help="numbers of steps or iterations (default: 1,2,3,4,8,16,32,64)")
    add("--candidates", type=count_from(2), metavar="M", help="candidates of self-verification (default: 8)")


def _video(options: Options) -> None:
    add = options.add_argument
    add("--minutes", type=number_in(0), metavar="M", help="minutes of processor time to train each model (default: 30)")
    add("--clips", type=count_from(1), metavar="N", help="clips per set to measure (default: 256; quick: 8)")
    add("--steps", type=counts, metavar="N,N,..", help="numbers of thinking steps (default: 1,2,3,4,6,8,12)")


SUDOKU_KINDS = ("ebt", "feed_forward", "looped_prediction", "looped_hidden", "recursive")


def _list_of(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def values(text: str) -> list[Any]:
        return list(dict.fromkeys(kind(part) for part in text.split(",")))

    return values


def names(*known: str) -> Callable[[str], list[str]]:
    """Return an option type for comma-separated names out of ``known``."""

    def name(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(known)}")
        return text

    return _list_of(name)


def _corpus(options: Options) -> None:
    add = options.add_argument
    add("--train", default="python-docs", metavar="FILE", help="training text (default: python-docs, which is built in)")
    add("--context-length", type=count_from(1), default=64, metavar="N", help="tokens per context (default: 64)")


OPTIONS: dict[str, tuple[Callable[[Options], None], str]] = {
    "stability": (_stability, "ebt study stability --lr 0.004 --step-sizes 1,1000 --recipes s1,s2"),
    "ablation": (_text, "ebt study ablation --train wikitext2-test.txt --validation wikitext2-valid.txt"),
    "uncertainty": (_text, "ebt study uncertainty --train wikitext2-test.txt --validation wikitext2-valid.txt"),
    "verifiers": (_text, "ebt study verifiers --candidates 8 --candidate-noise 0.1"),
    "sudoku": (_sudoku, "ebt study sudoku --size 6 --minutes 10"),
    "video": (_video, "ebt study video --minutes 5 --seeds 1"),
    "ood": (_ood, "ebt study ood --set gsm8k=gsm8k-test.jsonl --set shakespeare=tinyshakespeare.txt"),
}
"""The function that adds the options of each study, and an example."""
