"""One worker that generates for all requests, in batches of those that think alike."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from ebt.problems.folder import load_folder, load_tokenizer_of
from ebt.problems.language.energies import BYTES
from ebt.serving.protocol import Limits

LOG = logging.getLogger(__name__)
TEXT = ("ebt", "ebt_transformer_pp")
"""Types of the models that generate text."""


@dataclass(frozen=True)
class Served:
    """A language model and its tokenizer."""

    model: Any
    tokenizer: Any

    @classmethod
    def load(cls, folder: str, device: str = "cpu") -> Served:
        """Load a model folder. Raises ``InputError`` as ``load_folder``."""
        return cls.of(load_folder(folder, TEXT).to(device), folder)

    @classmethod
    def of(cls, model: Any, folder: str) -> Served:
        """Add the tokenizer of its folder to a language model."""
        return cls(model, load_tokenizer_of(folder))

    def candidates(self, options: dict[str, Any]) -> int:
        """Number of candidates with thinking options of a request, 1 for a model that does not think."""
        return int(self.model.how(**options).candidates) if hasattr(self.model, "thinking") else 1

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token. Special tokens have those of their names."""
        letters = self.tokenizer.convert_ids_to_tokens(token)
        if token not in self.tokenizer.all_special_ids and all(letter in BYTES for letter in letters):
            return bytes(BYTES[letter] for letter in letters)
        return str(self.tokenizer.decode([token])).encode()

    def token_text(self, token: int) -> str:
        r"""A token as text, or as ``bytes:\xc3`` if it is not whole characters."""
        raw = self.token_bytes(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without special ones."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))


@dataclass(frozen=True)
class Token:
    """A token of an answer."""

    id: int
    offset: int
    """Characters before it."""
    logprob: float | None = None
    """None: the first of a text."""
    top: tuple[tuple[int, float], ...] = ()
    """The most probable tokens and their log probabilities."""
    energy: float | None = None
    """Energy of the prediction at this place after the last step."""


@dataclass(frozen=True)
class Piece:
    """The next part of a choice, or its end."""

    index: int
    text: str = ""
    tokens: tuple[Token, ...] = ()
    finish: str | None = None
    error: Exception | None = None


@dataclass(eq=False)
class Row:
    """One choice of a request: what is asked, and how far it is."""

    index: int
    name: str
    ids: list[int]
    max_tokens: int
    emit: Callable[[Piece], None]
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    stops: tuple[str, ...] = ()
    logprobs: int | None = None
    echo: bool = False
    energies: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    before: int = 0
    """Characters of the prompt that the answer repeats."""
    cancelled: bool = False
    finish: str | None = None
    made: list[int] = field(default_factory=list)
    _text: str = ""
    _sent: int = 0
    _waiting: list[Token] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = torch.Generator().manual_seed(self.seed % 2**63)

    @property
    def key(self) -> Any:
        """Rows with the same key can be generated together."""
        return self.name, self.energies, self.echo and self.scored, tuple(sorted(self.options.items()))

    @property
    def scored(self) -> bool:
        """Whether the answer tells more of a token than its text."""
        return self.logprobs is not None or self.energies

    def choose(self, scores: Tensor) -> int:
        """Choose the next token from scores (V)."""
        if self.temperature == 0:
            return int(scores.argmax())
        probability = (scores.double() / self.temperature).softmax(-1).cpu()
        if self.top_p < 1:
            ordered, order = probability.sort(descending=True)
            ordered[ordered.cumsum(-1) - ordered >= self.top_p] = 0
            return int(order[torch.multinomial(ordered, 1, generator=self.random)])
        return int(torch.multinomial(probability, 1, generator=self.random))

    def take(self, token: Token, served: Served) -> None:
        """Add a token, and emit the text that no later token can change."""
        if token.id == served.tokenizer.eos_token_id:
            return self.end("stop", self._text)
        self.made.append(token.id)
        self._waiting.append(replace(token, offset=self.before + len(self._text.rstrip("\ufffd"))))
        self._text = served.text(self.made)
        found = [place for stop in self.stops if (place := self._text.find(stop)) >= 0]
        if found:
            return self.end("stop", self._text[: min(found)])
        if len(self.made) >= self.max_tokens:
            return self.end("length", self._text)
        sure = self._text.rstrip("\ufffd")
        held = max((n for stop in self.stops for n in range(1, len(stop)) if sure.endswith(stop[:n])), default=0)
        if len(sure) - held > self._sent:
            self._send(sure[: len(sure) - held], None)
        return None

    def end(self, reason: str, text: str) -> None:
        """Emit the rest of the text and the end."""
        self.finish = reason
        self._send(text, reason)

    def _send(self, text: str, finish: str | None) -> None:
        """Emit the text up to here, and its tokens: those of a stop are not part of the answer."""
        ready = [token for token in self._waiting if finish == "length" or token.offset < self.before + len(text)]
        self._waiting = self._waiting[len(ready) :]
        self.emit(Piece(self.index, text[self._sent :], tuple(ready), finish))
        self._sent = len(text)


class Engine:
    """Generates for rows that wait in line, in a thread of its own."""

    def __init__(self, models: dict[str, Served], limits: Limits) -> None:
        self.models, self.limits = models, limits
        self.largest = 0
        """Most rows that were generated together."""
        self._line: deque[Row] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="ebt-engine", daemon=True)
        self._thread.start()

    def submit(self, rows: Sequence[Row]) -> None:
        """Put rows in line."""
        with self._changed:
            self._line.extend(rows)
            self._changed.notify()

    def close(self) -> None:
        """Stop after the current token."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(10)

    @property
    def waiting(self) -> int:
        """Rows in line."""
        with self._changed:
            return sum(not row.cancelled for row in self._line)

    def _next(self) -> list[Row]:
        """Take the first row and those behind it that fit in its batch, and drop those that are cancelled."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._line)
            taken: list[Row] = []
            kept: deque[Row] = deque()
            for row in self._line:
                if row.cancelled:
                    continue
                (taken if not taken or self._fits(row, taken) else kept).append(row)
            self._line = kept
            return taken

    def _fits(self, row: Row, taken: list[Row]) -> bool:
        if row.key != taken[0].key or len(taken) >= self.limits.batch:
            return False
        served = self.models[row.name]
        longest = max(len(each.ids) + each.max_tokens for each in (row, *taken))
        positions = min(longest, served.model.config.context_length)
        return (len(taken) + 1) * served.candidates(row.options) * positions <= self.limits.positions

    def _work(self) -> None:
        while not self._closed:
            if not (rows := self._next()):
                continue
            self.largest = max(self.largest, len(rows))
            try:
                self._generate(rows)
            except Exception as error:  # the worker outlives any request
                LOG.exception("generation failed")
                _fail(rows, error)
        _fail(self._line, RuntimeError("the server has stopped"))

    def _generate(self, rows: list[Row]) -> None:
        served = self.models[rows[0].name]
        ids, mask = _left_padded([row.ids for row in rows], served)
        if rows[0].echo and rows[0].scored:
            self._score(rows, served, ids, mask)
        for row in rows:
            if row.max_tokens == 0:
                row.end("length", "")
        rows = [row for row in rows if row.finish is None]
        if not rows:
            return
        ids, mask = _left_padded([row.ids for row in rows], served)
        decoding = _Decoding(rows, served, lambda: self._closed)
        hook = served.model.register_forward_hook(decoding.see)
        try:
            served.model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=max(row.max_tokens for row in rows),
                do_sample=False,
                num_beams=1,
                return_dict_in_generate=rows[0].energies,
                eos_token_id=served.tokenizer.eos_token_id,
                pad_token_id=served.tokenizer.eos_token_id,
                logits_processor=LogitsProcessorList([decoding]),
                stopping_criteria=StoppingCriteriaList([_Finished(decoding)]),
                **rows[0].options,
            )
        finally:
            hook.remove()

    @torch.no_grad()
    def _score(self, rows: list[Row], served: Served, ids: Tensor, mask: Tensor) -> None:
        """Emit the tokens of the prompts with their log probabilities.

        The logits of all positions at once would take gigabytes, so positions are predicted in parts, behind a cache.
        """
        first = [ids.shape[1] - len(row.ids) for row in rows]
        told: list[list[tuple[Any, ...]]] = [[(None, (), None)] for _ in rows]  # nothing predicts the first token
        part, cache = self._part(rows, served), None
        for start in range(0, ids.shape[1] - 1, part):
            end = min(start + part, ids.shape[1] - 1)
            output = served.model(
                ids[:, start:end], attention_mask=mask[:, :end], past_key_values=cache, use_cache=True, **rows[0].options
            )
            cache = output.past_key_values
            for i, row in enumerate(rows):
                skipped = max(0, first[i] - start)  # padding
                energies = output.energies[-1, i, skipped:].tolist() if row.energies else itertools.repeat(None)
                logprobs = _log_softmax(output.logits[i, skipped:])
                targets = ids[i, start + skipped + 1 : end + 1].tolist()
                told[i] += [
                    (*_chances(scores, token, row.logprobs), energy)
                    for scores, token, energy in zip(logprobs, targets, energies, strict=False)
                ]
        for row, found in zip(rows, told, strict=True):
            offset, tokens = 0, list[Token]()
            for token, chances in zip(row.ids, found, strict=True):
                tokens.append(Token(token, offset, *chances))
                if token not in served.tokenizer.all_special_ids:
                    offset += sum(byte & 0xC0 != 0x80 for byte in served.token_bytes(token))
            row.emit(Piece(row.index, tokens=tuple(tokens)))

    def _part(self, rows: list[Row], served: Served) -> int:
        """Number of positions of prompts to predict at once."""
        one = len(rows) * served.candidates(rows[0].options) * served.model.config.vocab_size
        return max(1, self.limits.scores // one)


class _Decoding(LogitsProcessor):
    """Chooses the token of each row by its own settings, and leaves ``generate`` only that one."""

    def __init__(self, rows: list[Row], served: Served, closed: Callable[[], bool]) -> None:
        self.rows, self.served, self.closed = rows, served, closed
        self.energies: list[float] | None = None

    def see(self, module: Any, arguments: Any, output: Any) -> None:
        """Note the energies of the last predictions."""
        if self.rows[0].energies:
            self.energies = output.energies[-1, :, -1].tolist()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen = torch.full_like(scores, -torch.inf)
        logprobs = _log_softmax(scores) if any(row.logprobs is not None for row in self.rows) else None
        for i, row in enumerate(self.rows):
            if row.cancelled and row.finish is None:
                row.finish = "cancelled"
            token = self.served.tokenizer.eos_token_id if row.finish else row.choose(scores[i])
            chosen[i, token] = 0
            if row.finish is None:
                chances = _chances(None if logprobs is None else logprobs[i], token, row.logprobs)
                row.take(Token(token, 0, *chances, self.energies[i] if self.energies else None), self.served)
        return chosen


class _Finished(StoppingCriteria):
    """Which rows are complete, cancelled, or end with the server."""

    def __init__(self, decoding: _Decoding) -> None:
        self.decoding = decoding

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        ended = [self.decoding.closed() or row.finish is not None for row in self.decoding.rows]
        return torch.tensor(ended, device=input_ids.device)


def _fail(rows: Iterable[Row], error: Exception) -> None:
    """End rows that have not ended."""
    for row in rows:
        if row.finish is None:
            row.emit(Piece(row.index, error=error))


def emitter(events: asyncio.Queue[Piece]) -> Callable[[Piece], None]:
    """A function for other threads that puts pieces into a queue of the running event loop."""
    loop = asyncio.get_running_loop()

    def emit(piece: Piece) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(events.put_nowait, piece)

    return emit


def _left_padded(prompts: list[list[int]], served: Served) -> tuple[Tensor, Tensor]:
    longest, pad = max(map(len, prompts)), served.tokenizer.eos_token_id
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids.to(served.model.device), mask.to(served.model.device)


def _log_softmax(scores: Tensor) -> Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32)).log_softmax(-1)


def _chances(logprobs: Tensor | None, token: int, top: int | None) -> tuple[float | None, tuple[tuple[int, float], ...]]:
    """The log probability of a token, and the most probable tokens."""
    if logprobs is None or top is None:
        return None, ()
    best = logprobs.topk(min(top, len(logprobs)))
    return float(logprobs[token]), tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
