"""``ebt study NAME``: many trainings and measurements with seeds and intervals, and a page that tells what came of them."""

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

from ebt.cli.terminal import Options, count_from, counts, number_in, out_folder, plain_table, print_table, say_written
from ebt.errors import unknown
from ebt.lab.studies import STUDIES

FOLDER = "runs/studies"
PROSE = 40
"""Cells of more characters are sentences."""


def main(argv: list[str]) -> int:
    """Run a study. It goes on where an interrupted one stopped."""
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
    """A command as its page tells it: of files outside of this folder the names alone, which are other folders elsewhere."""
    parts = [word.rpartition("=") for word in words]
    return shlex.join(
        f"{option}{equals}{Path(path).name}" if path.startswith(("/", "..", "~")) else word
        for word, (option, equals, path) in zip(words, parts, strict=True)
    )


def _execute(name: str, args: argparse.Namespace, out: Path, command: str, console: Console) -> None:
    study: Any = importlib.import_module(f"ebt.lab.studies.{name}")
    plan = study.plan(args)
    stages = study.stages(plan)
    console.print(f"{_sentence(STUDIES[name])}\nResults go to {out}/.", highlight=False)
    results = gather(stages, args.jobs, console)
    finish(name, study.report(plan, results), command, results, out, console)


def gather(stages: Any, jobs: int, console: Console, devices: Sequence[str] = ()) -> Any:
    """The results of all runs, made now where they are not there; see ``ebt.lab.studies.runs.collect``."""
    from ebt.lab.studies import runs

    try:
        return runs.collect(stages, jobs, console, devices)
    except (KeyboardInterrupt, SystemExit):
        console.print("Interrupted. What has finished is kept: the same command goes on.", highlight=False)
        raise


def finish(name: str, made: Any, command: str, results: Any, out: Path, console: Console) -> None:
    """Show a page, and write it with its numbers."""
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
            "Many trainings and measurements, with seeds and intervals, and a page that tells what came of them.",
            "",
            "usage: ebt study NAME [OPTIONS]",
            "",
            "studies:",
            *lines,
            "",
            "`ebt study NAME --help` lists the options of a study. In full a study takes hours, with --quick about a minute.",
            "",
            "example:",
            "  ebt study ablation --quick",
        ]
    )


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _options(name: str) -> Options:
    more, example = OPTIONS[name]
    options = Options(
        f"study {name}",
        f"{_sentence(STUDIES[name])}\n"
        "Each finished run is a small file in --out, or beside the models: an interrupted study goes on where it stopped.\n"
        "After a change of the code, start with empty folders.",
        example,
    )
    add = options.add_argument
    add("--quick", action="store_true", help="about a minute instead of hours: everything runs, nothing is learned")
    add("--seeds", type=count_from(1), metavar="N", help="seeds 0 .. N-1 (default: 3; quick: 2)")
    cores = os.cpu_count() or 1
    add("--jobs", type=count_from(1), default=cores, metavar="N", help=f"runs side by side, a thread each (default: {cores})")
    add("--out", metavar="DIR", help=f"results (default: {FOLDER}/{name}, with -quick behind it in a quick study)")
    more(options)
    return options


def _text(options: Options) -> None:
    add, whole = options.add_argument, count_from(1)
    _corpus(options)
    add("--validation", metavar="FILE", help="text held out from it (default: a tenth of its documents)")
    add("--tokenizer", default="bytes", metavar="NAME", help="bytes (default), or a saved tokenizer")
    add("--updates", type=whole, metavar="N", help="of each training (default: 1000; quick: 4)")
    add("--contexts", type=whole, metavar="N", help="contexts that a number is measured on (default: 256; quick: 8)")
    add("--steps", type=counts, metavar="N,N,..", help="numbers of thinking steps (default: 1,2,3,4,6,8,12; quick: 1,2,3,4)")
    add("--candidates", type=count_from(2), metavar="M", help="of self-verification (default: 5, of verifiers 8; quick: 3)")
    noise = "Langevin noise of thinking with several candidates, for all but the first of them (default: 0)"
    add("--candidate-noise", type=number_in(-1e-9), default=0.0, metavar="X", help=noise)
    add("--models", default=f"{FOLDER}/text", metavar="DIR", help=f"models, which studies share (default: {FOLDER}/text)")


def _ood(options: Options) -> None:
    _text(options)
    add = options.add_argument
    add("--set", action="append", default=[], metavar="NAME=FILE", help="a text more to measure on: .txt, .jsonl, .json (.gz)")
    add("--sets", metavar="DIR", help="all such files of a folder, but those of --train and --validation")


def _stability(options: Options) -> None:
    add, numbers = options.add_argument, _list_of(number_in(0))
    add(
        "--parameterisations",
        type=names("ours", "reference"),
        default=["ours", "reference"],
        metavar="A,B",
        help="default: both",
    )
    add("--recipes", type=names("own", "s1", "s2"), metavar="A,B,..", help="default: own,s1,s2; quick: s1")
    add("--lr", type=numbers, metavar="X,Y,..", help="learning rates (default: 0.001,0.004,0.016; quick: 0.004)")
    add("--step-sizes", type=numbers, metavar="X,Y,..", help="initial ones (default: 1,10,100,1000; quick: 1,1000)")
    add("--updates", type=count_from(1), metavar="N", help="of each training (default: 100; quick: 4)")
    _corpus(options)


def _sudoku(options: Options) -> None:
    add, whole = options.add_argument, count_from(1)
    add("--size", type=int, choices=(4, 6, 9), default=9, help="of the boards (default: 9)")
    add("--collection", metavar="FILE", help="CSV of puzzles with few givens, such as 17 (default: generated puzzles)")
    add("--puzzles", type=whole, metavar="N", help="to train on (default: 4000; 9x9: 50000, or all of the collection)")
    add("--givens", type=counts, metavar="A,B", help="fewest and most in training (default: by the size)")
    add("--test-givens", type=counts, metavar="N,N,..", help="a test set for each (default: by the size)")
    add("--symmetries", action="store_true", help="permute lines and bands in training, too: for few puzzles")
    add("--no-rules", action="store_true", help="no model is told which cells share a row, a column or a box")
    add("--kinds", type=names(*SUDOKU_KINDS), metavar="A,B,..", help=f"models (default: {','.join(SUDOKU_KINDS)})")
    add("--layers", type=whole, default=4, metavar="N", help="of each model (default: 4)")
    add("--dim", type=whole, default=64, metavar="N", help="their width (default: 64)")
    add("--batch-size", type=whole, metavar="B", help="boards of an update (default: 64; 9x9: 32)")
    add("--minutes", type=number_in(0), metavar="M", help="of processor time to train each model (default: 30)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="(default: cpu); on another, minutes are of its time")
    add("--boards", type=whole, metavar="N", help="test boards for each number of givens (default: 500)")
    add("--steps", type=counts, metavar="N,N,..", help="steps or iterations (default: 1,2,3,4,8,16,32,64)")
    add("--candidates", type=count_from(2), metavar="M", help="of self-verification (default: 8)")


def _video(options: Options) -> None:
    add = options.add_argument
    add("--minutes", type=number_in(0), metavar="M", help="of processor time to train each model (default: 30)")
    add("--clips", type=count_from(1), metavar="N", help="of each set that a number is measured on (default: 256; quick: 8)")
    add("--steps", type=counts, metavar="N,N,..", help="numbers of thinking steps (default: 1,2,3,4,6,8,12)")


SUDOKU_KINDS = ("ebt", "feed_forward", "looped_prediction", "looped_hidden", "recursive")


def _list_of(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def values(text: str) -> list[Any]:
        return list(dict.fromkeys(kind(part) for part in text.split(",")))

    return values


def names(*known: str) -> Callable[[str], list[str]]:
    """The type of options that are some of these names, separated by commas."""

    def name(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(known)}")
        return text

    return _list_of(name)


def _corpus(options: Options) -> None:
    add = options.add_argument
    add("--train", default="python-docs", metavar="FILE", help="text to train on (default: python-docs, which is embedded)")
    add("--context-length", type=count_from(1), default=64, metavar="N", help="tokens in a context (default: 64)")


OPTIONS: dict[str, tuple[Callable[[Options], None], str]] = {
    "stability": (_stability, "ebt study stability --lr 0.004 --step-sizes 1,1000 --recipes s1,s2"),
    "ablation": (_text, "ebt study ablation --train wikitext2-test.txt --validation wikitext2-valid.txt"),
    "uncertainty": (_text, "ebt study uncertainty --train wikitext2-test.txt --validation wikitext2-valid.txt"),
    "verifiers": (_text, "ebt study verifiers --candidates 8 --candidate-noise 0.1"),
    "sudoku": (_sudoku, "ebt study sudoku --size 6 --minutes 10"),
    "video": (_video, "ebt study video --minutes 5 --seeds 1"),
    "ood": (_ood, "ebt study ood --set gsm8k=gsm8k-test.jsonl --set shakespeare=tinyshakespeare.txt"),
}
"""For each study, what adds its own options, and an example."""
