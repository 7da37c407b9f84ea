"""Tokenizers: bytes, byte-level BPE trained on a corpus, or any saved Hugging Face tokenizer."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ebt.errors import InputError
from ebt.problems.language.corpora import Document, Message, hub_answers

SEPARATOR = "<|endoftext|>"


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer of 257 tokens: byte b has id b, `<|endoftext|>` has 256. Decoding restores UTF-8 text exactly."""
    # ByteLevel maps printable bytes to themselves and the others, in order, to the characters from 256 on.
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    others = (chr(code) for code in range(256, 512))
    vocabulary = {chr(byte) if chr(byte) in alphabet else next(others): byte for byte in range(256)}
    return _wrap(Tokenizer(models.BPE(vocab=vocabulary, merges=[])), use_regex=False)


def train_bpe(documents: Iterable[Document], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train byte-level BPE with `vocab_size` tokens: `<|endoftext|>`, the 256 bytes, and merges learned from the documents.

    Save it with `save_pretrained(folder)` and load it with `load_tokenizer(folder)`. If the documents have fewer distinct
    tokens, the tokenizer has only these, with a warning.

    Raises:
        InputError: If `vocab_size` is below 257.
    """
    if vocab_size < 257:
        raise InputError(f"vocab_size={vocab_size} has no room for 256 bytes and {SEPARATOR}. Give at least 257.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(((document.prompt or "") + document.text for document in documents), trainer)
    if (held := tokenizer.get_vocab_size()) < vocab_size:
        warnings.warn(
            f"vocab_size={vocab_size}, but the documents have only {held} distinct tokens: {held} are used.", stacklevel=2
        )
    return _wrap(tokenizer, use_regex=True)


def load_tokenizer(spec: str, download: bool = True) -> PreTrainedTokenizerFast:
    """Load the tokenizer `spec`: `bytes`, a folder, a `tokenizer.json` file, or an id of the Hugging Face hub.

    Without ``download``, an id of the hub is looked up only in the cache. A tokenizer without an end-of-text token gets
    `<|endoftext|>` if that is in its vocabulary.

    Raises:
        InputError: If the tokenizer does not exist, has no fast form, or has no end-of-text token to separate documents.
    """
    if spec == "bytes":
        return byte_tokenizer()
    exists = Path(spec).exists()
    missing = "" if exists else f"no such folder: {spec}. "
    try:
        if Path(spec).is_file():
            tokenizer = PreTrainedTokenizerFast(tokenizer_file=spec)
        else:
            local = not download or exists or not hub_answers(spec, "model")
            tokenizer = AutoTokenizer.from_pretrained(spec, local_files_only=local)
    except InputError:
        raise
    except Exception as error:  # the Rust code raises a plain Exception for a malformed file
        raise InputError(
            f"{missing}The tokenizer {spec!r} cannot be loaded ({' '.join(str(error).split())}). Use 'bytes', a folder or "
            "tokenizer.json file of a saved Hugging Face tokenizer, or an id of the hub (which needs the network)."
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InputError(f"The tokenizer {spec!r} has no fast form (tokenizer.json). Convert it, or use another one.")
    if tokenizer.eos_token is None and SEPARATOR in tokenizer.get_vocab():
        tokenizer.eos_token = SEPARATOR
    if tokenizer.eos_token is None:
        raise InputError(
            f"The tokenizer {spec!r} has no end-of-text token, which separates documents. Set its eos_token and save "
            "it again with save_pretrained."
        )
    tokenizer.clean_up_tokenization_spaces = False
    return tokenizer


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], begin: bool = True) -> list[list[int]]:
    """Encode whole texts as token ids, without truncation or padding.

    With `begin`, each text begins with the special tokens, for example `<s>`, that the tokenizer puts before a text. Special
    tokens after a text are left out: the end-of-text token separates documents.
    """
    backend = tokenizer.backend_tokenizer  # called directly: the wrapper is five times slower
    backend.no_truncation()
    backend.no_padding()
    added = backend.encode("a") if begin else None
    prefix = added.ids[: added.special_tokens_mask.index(0)] if added else []
    return [[*prefix, *encoding.ids] for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def render_chat(tokenizer: PreTrainedTokenizerFast, messages: Iterable[Message]) -> str:
    """Format a conversation with the chat template, without the special tokens that packing adds around a text."""
    text = str(tokenizer.apply_chat_template(list(messages), tokenize=False))
    if encode(tokenizer, [""]) != [[]]:
        text = text.removeprefix(tokenizer.bos_token or "")
    return text.removesuffix(tokenizer.eos_token)


def vocabulary_size(tokenizer: PreTrainedTokenizerFast) -> int:
    """Return the number of embedding rows needed: the highest id, including added tokens, plus one."""
    return int(max(tokenizer.get_vocab().values())) + 1


def _wrap(tokenizer: Tokenizer, use_regex: bool) -> PreTrainedTokenizerFast:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SEPARATOR,
        eos_token=SEPARATOR,
        pad_token=SEPARATOR,
        clean_up_tokenization_spaces=False,
    )
