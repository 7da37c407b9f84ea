"""``ebt tokenizer``: train a byte-level BPE on a corpus."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from ebt.cli.terminal import Options, count_from, plain_table, print_table, say_written
from ebt.errors import InputError

if TYPE_CHECKING:
    from ebt.problems.language.corpora import Document


def _options() -> Options:
    options = Options(
        "tokenizer",
        "Train a byte-level BPE on the training documents of a corpus. Use its folder as `tokenizer` of `ebt fit`.",
        "ebt tokenizer --data python-docs --vocab-size 1024 --out tokenizers/docs-1024",
    )
    options.add_argument(
        "--data",
        required=True,
        metavar="SOURCE",
        help="python-docs (embedded), a file of text, JSON, CSV or Parquet, a folder, or a Hugging Face dataset",
    )
    options.add_argument("--vocab-size", required=True, type=count_from(1), metavar="N", help="tokens, at least 257")
    options.add_argument("--out", required=True, metavar="DIR", help="new folder for the tokeniser")
    options.add_argument("--text-field", default="text", metavar="NAME", help="field with the text (default: text)")
    options.add_argument("--prompt-field", metavar="NAME", help="field with the prompt, if there is one")
    options.add_argument(
        "--fractions", default="0.9,0.05,0.05", metavar="A,B,C", help="shares of train, validation and test; as in fit"
    )
    options.add_argument(
        "--on-error",
        choices=("skip", "refuse"),
        default="skip",
        help="bad files, lines and rows (default: skip)",
    )
    options.seed("the split, as in fit")
    return options


def main(argv: list[str]) -> int:
    """Run the command."""
    args, console = _options().parse_args(argv), Console()
    from ebt.problems.language.tokenizers import encode, train_bpe

    folder = Path(args.out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--out {folder} exists and is not empty: choose a new folder.")
    splits = _splits(args)
    tokenizer = train_bpe(splits["train"], args.vocab_size)
    try:
        tokenizer.save_pretrained(folder)
    except OSError as error:
        raise InputError(f"--out {folder} cannot be written ({error}): choose another folder.") from error
    table = plain_table()
    for name in ("split", "documents", "bytes", "tokens", "bytes per token"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for name, documents in splits.items():
        if documents:
            texts = [(document.prompt or "") + document.text for document in documents]
            size, tokens = sum(len(text.encode()) for text in texts), sum(map(len, encode(tokenizer, texts)))
            table.add_row(name, f"{len(texts):,}", f"{size:,}", f"{tokens:,}", f"{size / tokens:.3f}")
    print_table(console, f"byte-level BPE with {len(tokenizer)} tokens", table)
    say_written(console, [folder])
    return 0


def _splits(args: argparse.Namespace) -> dict[str, list[Document]]:
    """The documents by split, as ``ebt fit`` splits them; the tokeniser learns from the training documents only."""
    from ebt.problems.language.corpora import Fields, open_source, split_documents

    try:
        fractions = [float(part) for part in args.fractions.split(",")]
    except ValueError:
        raise InputError(f"--fractions {args.fractions!r}: give three numbers, such as 0.9,0.05,0.05.") from None
    sources = open_source(args.data, Fields(args.text_field, args.prompt_field), on_error=args.on_error)
    documents = {name: list(source) for name, source in sources.items()}
    shares = [0.0 if name in documents else share for name, share in zip(("validation", "test"), fractions[1:], strict=False)]
    shares = [1 - sum(shares), *shares] if len(fractions) == 3 else fractions
    return split_documents(documents.pop("train"), shares, args.seed) | documents
