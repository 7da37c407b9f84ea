"""Answers of the API, whole and in pieces, in OpenAI's format."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from ebt.serving.engine import Piece, Served, Token
from ebt.serving.protocol import Asked


@dataclass
class Format:
    """Writes completions."""

    asked: Asked
    served: Served
    prompts: list[str]
    """Texts before each choice: those of the prompts with ``echo``, otherwise empty."""
    kind: str = "text_completion"
    prefix: str = "cmpl"
    made: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.id = f"{self.prefix}-{uuid.uuid4().hex}"

    def whole(self, pieces: list[list[Piece]], usage: dict[str, int]) -> dict[str, Any]:
        """The answer to a request that does not stream."""
        joined = [
            Piece(
                i, "".join(piece.text for piece in own), tuple(token for piece in own for token in piece.tokens), own[-1].finish
            )
            for i, own in enumerate(pieces)
        ]
        return {**self._head(self.kind), "choices": [self.choice(piece, True) for piece in joined], "usage": usage}

    def chunk(self, piece: Piece, first: bool) -> dict[str, Any]:
        """An event of a stream."""
        return {**self._head(self.chunk_kind), "choices": [self.part(piece, first)]}

    def last(self, usage: dict[str, int]) -> dict[str, Any]:
        """The event with the usage."""
        return {**self._head(self.chunk_kind), "choices": [], "usage": usage}

    @property
    def chunk_kind(self) -> str:
        """The ``object`` of events."""
        return self.kind

    def choice(self, piece: Piece, first: bool) -> dict[str, Any]:
        """A choice: its text after the prompt's if that is wanted."""
        return {"text": (self.prompts[piece.index] if first else "") + piece.text, **self._more(piece)}

    def part(self, piece: Piece, first: bool) -> dict[str, Any]:
        """A choice in an event."""
        return self.choice(piece, first)

    def logprobs(self, tokens: tuple[Token, ...]) -> dict[str, Any]:
        """Log probabilities of tokens."""
        text, name = self.served.token_text, self.asked.wanted_logprobs
        assert name is not None
        return {
            "tokens": [text(token.id) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [
                None if token.logprob is None else {text(i): p for i, p in reversed((*token.top, (token.id, token.logprob)))}
                for token in tokens
            ],
            "text_offset": [token.offset for token in tokens],
        }

    def _more(self, piece: Piece) -> dict[str, Any]:
        told = self.asked.wanted_logprobs is not None
        more: dict[str, Any] = {"index": piece.index, "finish_reason": piece.finish}
        more["logprobs"] = self.logprobs(piece.tokens) if told else None
        if self.asked.energies:
            more["energies"] = [token.energy for token in piece.tokens]
        return more

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.made, "model": self.asked.model}


@dataclass
class ChatFormat(Format):
    """Writes chat completions."""

    kind: str = "chat.completion"
    prefix: str = "chatcmpl"

    @property
    def chunk_kind(self) -> str:
        return "chat.completion.chunk"

    def choice(self, piece: Piece, first: bool) -> dict[str, Any]:
        message = {"role": "assistant", "content": piece.text, "refusal": None}
        return {"message": message, **self._more(piece)}

    def part(self, piece: Piece, first: bool) -> dict[str, Any]:
        return {
            "delta": {"role": "assistant", "content": piece.text} if first else {"content": piece.text},
            **self._more(piece),
        }

    def logprobs(self, tokens: tuple[Token, ...]) -> dict[str, Any]:
        def one(token: int, logprob: float | None) -> dict[str, Any]:
            raw = self.served.token_bytes(token)
            return {"token": self.served.token_text(token), "logprob": logprob, "bytes": list(raw)}

        content = [{**one(t.id, t.logprob), "top_logprobs": [one(i, p) for i, p in t.top]} for t in tokens]
        return {"content": content, "refusal": None}
