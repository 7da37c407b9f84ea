"""``ebt tokenizer``: train a byte-level BPE tokenizer on a corpus."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from ebt.cli.terminal import numbers, plain_table, print_table, say_written
from ebt.errors import InputError
from ebt.files import unwritten
from ebt.problems.language.corpora import Document, Fields, open_source, split_documents
from ebt.problems.language.tokenizers import encode, train_bpe


def main(args: argparse.Namespace) -> int:
    """Run the command."""
    folder = Path(args.out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--out {folder} exists and is not empty: choose a new folder.")
    console, splits = Console(), _splits(args)
    tokenizer = train_bpe(splits["train"], args.vocab_size)
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:
        if not unwritten(error):
            raise
        raise InputError(f"--out {folder} cannot be written ({error}): choose another folder.") from error
    table = plain_table("split", *numbers("documents", "bytes", "tokens", "bytes per token"))
    for name, documents in splits.items():
        if documents:
            texts = [(document.prompt or "") + document.text for document in documents]
            size, tokens = sum(len(text.encode()) for text in texts), sum(map(len, encode(tokenizer, texts)))
            table.add_row(name, f"{len(texts):,}", f"{size:,}", f"{tokens:,}", f"{size / tokens:.3f}")
    print_table(console, f"byte-level BPE with {len(tokenizer)} tokens", table)
    say_written(console, [folder])
    return 0


def _splits(args: argparse.Namespace) -> dict[str, list[Document]]:
    """Split the documents as ``ebt fit`` does, so that the tokenizer sees only training documents."""
    try:
        fractions = [float(part) for part in args.fractions.split(",")]
    except ValueError:
        raise InputError(f"--fractions {args.fractions!r}: give three numbers, for example 0.9,0.05,0.05.") from None
    sources = open_source(args.data, Fields(args.text_field, args.prompt_field), on_error=args.on_error)
    documents = {name: list(source) for name, source in sources.items()}
    shares = [0.0 if name in documents else share for name, share in zip(("validation", "test"), fractions[1:], strict=False)]
    shares = [1 - sum(shares), *shares] if len(fractions) == 3 else fractions
    return split_documents(documents.pop("train"), shares, args.seed) | documents
