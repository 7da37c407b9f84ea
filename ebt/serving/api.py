"""The application: an OpenAI-compatible API over language models that think."""

from __future__ import annotations

import asyncio
import hmac
import json
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from jinja2 import TemplateError
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from ebt.problems.language.tokenizers import encode
from ebt.serving import LOCAL_HOSTS
from ebt.serving.answers import ChatFormat, Format
from ebt.serving.engine import Engine, Piece, Row, Served, emitter
from ebt.serving.protocol import Asked, ChatAsked, CompletionAsked, Limits, Refused, check_thinking, read


def create_app(
    models: Mapping[str, Served], key: str | None = None, limits: Limits | None = None, hosts: tuple[str, ...] = LOCAL_HOSTS
) -> FastAPI:
    """Return the application.

    Args:
        models: Language models by the name that requests give.
        key: What clients send as ``Authorization: Bearer KEY``. None: nothing is asked of clients.
        limits: What is accepted.
        hosts: Without a key, the host names under which the server answers, so that pages of other sites cannot reach it.
    """
    server = _Server(dict(models), key, limits or Limits())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        server.engine.close()

    app = FastAPI(title="ebt", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.server = server
    if key is None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _failed)
    app.add_api_route("/health", server.health, methods=["GET"])
    app.add_api_route("/v1/models", server.list_models, methods=["GET"])
    app.add_api_route("/v1/models/{name:path}", server.one_model, methods=["GET"])
    app.add_api_route("/v1/completions", server.completions, methods=["POST"], response_model=None)
    app.add_api_route("/v1/chat/completions", server.chat, methods=["POST"], response_model=None)
    app.add_api_route("/v1/{rest:path}", _unknown, methods=["GET", "POST", "PUT", "PATCH", "DELETE"], response_model=None)
    return app


async def _unknown(request: Request) -> None:
    """Refuse other requests here: behind them, the page would answer in its own format."""
    raise Refused(404, f"there is no {request.method} {request.url.path}")


async def _refused(request: Request, error: Exception) -> JSONResponse:
    """Answer with an error in OpenAI's format."""
    if isinstance(error, HTTPException):
        error = Refused(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
    assert isinstance(error, Refused)
    return JSONResponse(error.body(), error.status, {"Retry-After": "1"} if error.status == 429 else None)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    """Answer without telling what went wrong, which is logged."""
    return await _refused(request, Refused(500, "the server failed: see its log"))


@dataclass
class _Work:
    """A request that runs: its rows, and the pieces that come back."""

    rows: list[Row]
    events: asyncio.Queue[Piece]
    format: Format

    def cancel(self) -> None:
        for row in self.rows:
            row.cancelled = True

    def usage(self) -> dict[str, int]:
        prompt = sum(len(row.ids) for row in {tuple(row.ids): row for row in self.rows}.values())
        made = sum(len(row.made) for row in self.rows)
        return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}


class _Server:
    def __init__(self, models: dict[str, Served], key: str | None, limits: Limits) -> None:
        self.models, self.limits = models, limits
        self.key = None if key is None else key.encode()
        self.engine = Engine(models, limits)
        self.open = 0
        self.began = int(time.time())

    async def health(self) -> dict[str, Any]:
        return {"status": "ok", "open": self.open, "waiting": self.engine.waiting}

    async def list_models(self, request: Request) -> dict[str, Any]:
        self._authorise(request)
        return {"object": "list", "data": [self._model(name) for name in self.models]}

    async def one_model(self, request: Request, name: str) -> dict[str, Any]:
        self._authorise(request)
        self._served(name)
        return self._model(name)

    async def completions(self, request: Request) -> Response:
        return await self._answer(request, CompletionAsked, self._completion)

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, ChatAsked, self._chat)

    async def _answer(self, request: Request, kind: type[Asked], begin: Any) -> Response:
        """Check a request, put it in line and answer it. It counts as open until its last byte is sent or the client left."""
        self._authorise(request)
        if self.open >= self.limits.open:
            raise Refused(
                429, f"{self.open} requests are open, which is all that this server takes: try again", code="overload"
            )
        self.open += 1
        work = None
        try:
            asked = read(kind, await self._received(request), self.limits)
            work = begin(asked)
            self.engine.submit(work.rows)
            if not asked.stream:
                return await self._whole(request, work)
            first = await _unless_gone(request, _next(work))
            response = StreamingResponse(self._streamed(work, first), media_type="text/event-stream")
            response.headers["Cache-Control"] = "no-store"
            work = None  # the stream has it from here
            return response
        finally:
            if work is not None:
                work.cancel()
            self.open -= 1

    async def _whole(self, request: Request, work: _Work) -> Response:
        async def collect() -> list[list[Piece]]:
            pieces: list[list[Piece]] = [[] for _ in work.rows]
            while any(not own or own[-1].finish is None for own in pieces):
                piece = await _next(work)
                pieces[piece.index].append(piece)
            return pieces

        pieces = await _unless_gone(request, collect())
        return JSONResponse(work.format.whole(pieces, work.usage()))

    async def _streamed(self, work: _Work, piece: Piece) -> AsyncIterator[str]:
        """Server-sent events. Ends with an error event if generation fails."""
        self.open += 1
        begun, ended = set[int](), 0
        options = work.format.asked.stream_options
        try:
            while True:
                yield _event(work.format.chunk(piece, piece.index not in begun))
                begun.add(piece.index)
                ended += piece.finish is not None
                if ended == len(work.rows):
                    break
                piece = await _next(work)
            if options is not None and options.include_usage:
                yield _event(work.format.last(work.usage()))
            yield "data: [DONE]\n\n"
        except Refused as error:
            yield _event(error.body())
        finally:
            work.cancel()
            self.open -= 1

    async def _received(self, request: Request) -> bytes:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "send JSON with the header Content-Type: application/json")
        body, most = bytearray(), self.limits.body
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                async for part in request.stream():
                    body += part
                    if len(body) > most:
                        raise Refused(413, f"the request is larger than {most} bytes, the most that this server takes")
        except TimeoutError:
            raise Refused(408, f"the request did not arrive within {self.limits.body_seconds:g} s") from None
        return bytes(body)

    def _completion(self, asked: CompletionAsked) -> _Work:
        served, given = self._served(asked.model), asked.prompt
        texts: list[str | list[int]] = [given] if isinstance(given, str) or isinstance(given[0], int) else list(given)
        self._check_rows(len(texts) * asked.n)
        prompts = [encode(served.tokenizer, [text])[0] if isinstance(text, str) else text for text in texts]
        for prompt in prompts:
            self._check_prompt(prompt, served)
        shown = [text if isinstance(text, str) else served.text(text) for text in texts]
        before = [text if asked.echo else "" for text in shown for _ in range(asked.n)]
        most = 16 if asked.max_tokens is None else asked.max_tokens
        if most == 0 and not asked.echo:
            raise Refused(400, "max_tokens is 0, which needs echo: true", "max_tokens")
        return self._work(asked, served, prompts, most, Format(asked, served, before), asked.echo)

    def _chat(self, asked: ChatAsked) -> _Work:
        served = self._served(asked.model)
        tokenizer = served.tokenizer
        if not tokenizer.chat_template:
            raise Refused(400, f"the tokenizer of {asked.model} has no chat template: use /v1/completions", "model")
        self._check_rows(asked.n)
        try:
            messages = [message.plain() for message in asked.messages]
            text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except (TemplateError, ValueError, TypeError) as error:
            raise Refused(400, f"the chat template does not take these messages: {error}", "messages") from None
        if begin := encode(tokenizer, [""])[0]:
            text = text.removeprefix(tokenizer.decode(begin))
        prompt = encode(tokenizer, [text])[0]
        self._check_prompt(prompt, served)
        if asked.max_tokens is not None and asked.max_completion_tokens is not None:
            raise Refused(400, "max_tokens and max_completion_tokens are the same: give one of them", "max_tokens")
        most = asked.max_completion_tokens or asked.max_tokens or self.limits.max_tokens
        if most > self.limits.max_tokens:
            message = f"max_completion_tokens is {most}, and this server takes at most {self.limits.max_tokens}"
            raise Refused(400, message, "max_completion_tokens")
        return self._work(asked, served, [prompt], most, ChatFormat(asked, served, [""] * asked.n), False)

    def _work(self, asked: Asked, served: Served, prompts: list[list[int]], most: int, form: Format, echo: bool) -> _Work:
        options = check_thinking(asked, served.model, self.limits)
        seed = random.randrange(2**62) if asked.seed is None else asked.seed
        events = asyncio.Queue[Piece]()
        rows = [
            Row(
                index,
                asked.model,
                prompt,
                most,
                emitter(events),
                asked.temperature,
                asked.top_p,
                seed + index,
                tuple(asked.stop),
                asked.wanted_logprobs,
                echo,
                asked.energies,
                options,
                len(form.prompts[index]),
            )
            for index, prompt in enumerate(prompt for prompt in prompts for _ in range(asked.n))
        ]
        return _Work(rows, events, form)

    def _check_rows(self, count: int) -> None:
        if count > self.limits.rows:
            raise Refused(400, f"the request asks for {count} choices, and this server makes at most {self.limits.rows}", "n")

    def _check_prompt(self, prompt: list[int], served: Served) -> None:
        context, words = served.model.config.context_length, served.model.config.vocab_size
        if not prompt:
            raise Refused(400, "the prompt is empty: give at least one token", "prompt")
        if len(prompt) > context:
            message = f"the prompt has {len(prompt)} tokens, and the model's context is {context}: shorten it"
            raise Refused(400, message, "prompt", "context_length_exceeded")
        if wrong := [token for token in prompt if not 0 <= token < words]:
            raise Refused(400, f"the prompt has token {wrong[0]}, and the vocabulary ends at {words - 1}", "prompt")

    def _served(self, name: str) -> Served:
        if name not in self.models:
            known = ", ".join(self.models)
            raise Refused(404, f"there is no model {name!r}: choose from {known}", "model", "model_not_found")
        return self.models[name]

    def _model(self, name: str) -> dict[str, Any]:
        config = self.models[name].model.config
        made = {"id": name, "object": "model", "created": self.began, "owned_by": "ebt"}
        return {**made, "context_length": config.context_length, "thinks": hasattr(self.models[name].model, "thinking")}

    def _authorise(self, request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode("latin-1")
        if self.key is not None and not hmac.compare_digest(given, self.key):
            raise Refused(401, "the key is missing or wrong: send the header Authorization: Bearer KEY", code="invalid_api_key")


async def _next(work: _Work) -> Piece:
    """The next piece. Raises ``Refused`` if generation failed, without what others' requests hold."""
    piece = await work.events.get()
    if piece.error is not None:
        raise Refused(500, f"generation failed ({type(piece.error).__name__}): see the server's log")
    return piece


async def _unless_gone(request: Request, answer: Any) -> Any:
    """Await an answer while the client is there.

    Raises:
        Refused: If the client has left, who will not read this.
    """
    task, gone = asyncio.ensure_future(answer), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refused(499, "the client closed the connection")
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
            with suppress(asyncio.CancelledError, Refused):
                await each


async def _gone(request: Request) -> None:
    """Return when the client closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"
