"""Requests of the OpenAI-compatible API: their fields, limits and errors."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ebt.errors import InputError
from ebt.models.thinking import STOPS, Thinking

RENAMED = {"thinking_seed": "seed", "thinking_stop": "stop"}
"""Thinking options whose names are fields of OpenAI's protocol, by their names in requests."""
OPTIONS = tuple(RENAMED) + tuple(field.name for field in fields(Thinking) if field.name not in RENAMED.values())
"""Thinking options by their names in requests."""
HARMLESS = ("user", "metadata", "safety_identifier", "prompt_cache_key")
"""Fields that OpenAI's protocol defines for bookkeeping only. They are ignored."""
NEUTRAL: dict[str, Any] = {"best_of": 1, "presence_penalty": 0, "frequency_penalty": 0, "logit_bias": {}, "suffix": None}
"""Unsupported fields of OpenAI's protocol, and the values that have no effect."""


@dataclass(frozen=True)
class Limits:
    """What a server accepts. They bound its memory and the time of a request."""

    max_tokens: int = 1024
    """Most new tokens of a choice."""
    rows: int = 64
    """Most choices of a request: prompts x n."""
    open: int = 64
    """Most requests at once, running or waiting."""
    batch: int = 16
    """Most choices that are generated together."""
    positions: int = 16384
    """Most positions in a batch: choices x candidates x context."""
    scores: int = 2**24
    """Most scores of prompts at once: choices x candidates x positions x vocabulary."""
    steps: int = 256
    candidates: int = 64
    body: int = 2**20
    """Most bytes of a request."""
    body_seconds: float = 30.0
    """Time to send a request."""


class Refused(Exception):
    """A request that gets an error as its answer, in OpenAI's format."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        """The answer."""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


Real = Annotated[float, Field(allow_inf_nan=False)]
Ids = Annotated[list[int], Field(min_length=1)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    include_usage: bool | None = None


class Asked(BaseModel):
    """Fields that completions and chat completions share."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    n: Annotated[int, Field(ge=1)] = 1
    temperature: Annotated[Real, Field(ge=0, le=100)] = 1.0
    top_p: Annotated[Real, Field(gt=0, le=1)] = 1.0
    seed: int | None = None
    stop: list[str] = []
    stream: bool = False
    stream_options: StreamOptions | None = None
    energies: bool = False

    steps: int | None = None
    candidates: int | None = None
    rule: str | None = None
    noise: Real | None = None
    noise_steps: int | None = None
    step_size_scale: Real | None = None
    clamp: Real | None = None
    tolerance: Real | None = None
    start_std: Real | None = None
    mean_from: int | None = None
    thinking_seed: int | None = None
    thinking_stop: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_neutral(cls, given: Any) -> Any:
        """Drop ``null`` and fields without effect, and make a list of a single stop."""
        if not isinstance(given, dict):
            return given
        kept = {name: value for name, value in given.items() if name not in HARMLESS and value is not None}
        for name, value in NEUTRAL.items():
            if name in kept and name not in cls.model_fields and kept.pop(name) != value:
                raise ValueError(f"{name} is not supported: leave it out")
        if isinstance(kept.get("stop"), str):
            kept["stop"] = [kept["stop"]]
        return kept

    @property
    @abstractmethod
    def wanted_logprobs(self) -> int | None:
        """Number of alternatives per token, None without logprobs."""

    def thinking(self) -> dict[str, Any]:
        """The thinking options that are given, as fields of ``Thinking``."""
        given = {name: getattr(self, name) for name in OPTIONS}
        return {RENAMED.get(name, name): value for name, value in given.items() if value is not None}


class CompletionAsked(Asked):
    """``POST /v1/completions``."""

    prompt: str | Ids | Annotated[list[str], Field(min_length=1)] | Annotated[list[Ids], Field(min_length=1)]
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def wanted_logprobs(self) -> int | None:
        return self.logprobs


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """The message as chat templates take it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": text}


class ChatAsked(Asked):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0

    @property
    def wanted_logprobs(self) -> int | None:
        return self.top_logprobs if self.logprobs else None


def read(kind: type[Asked], body: bytes, limits: Limits) -> Any:
    """Read and check a request.

    Raises:
        Refused: If it is malformed, has unknown fields or exceeds a limit that does not depend on the model.
    """
    try:
        asked = kind.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error, kind) from None
    stops = asked.stop
    if len(stops) > 16 or any(not 1 <= len(stop) <= 256 for stop in stops):
        raise Refused(400, "stop takes up to 16 strings of 1 to 256 characters", "stop")
    for name, value in (("steps", asked.steps), ("candidates", asked.candidates), ("max_tokens", asked.max_tokens)):
        if value is not None and value > (most := getattr(limits, name)):
            raise Refused(400, f"{name} is {value}, and this server takes at most {most}", name)
    if asked.thinking_stop is not None and asked.thinking_stop.partition("(")[0] not in STOPS:
        # other names are imported, which a client must not cause
        raise Refused(400, f"thinking_stop is {asked.thinking_stop!r}: choose one of {', '.join(STOPS)}", "thinking_stop")
    if asked.stream_options is not None and not asked.stream:
        raise Refused(400, "stream_options needs stream: true", "stream_options")
    return asked


def _refusal(error: ValidationError, kind: type[Asked]) -> Refused:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = [str(part) for part in first["loc"]]
    name = place[0] if place else None
    if first["type"] == "json_invalid":
        return Refused(400, f"the request is not valid JSON: {first['msg']}", code="invalid_json")
    if first["type"] == "extra_forbidden":
        known = ", ".join(kind.model_fields)
        return Refused(400, f"there is no field {'.'.join(place)!r}: the fields are {known}", name, "unknown_field")
    if first["type"] == "missing":
        return Refused(400, f"{'.'.join(place)} is missing", name)
    return Refused(400, f"{name}: {first['msg']}" if name else first["msg"].removeprefix("Value error, "), name)


def check_thinking(asked: Asked, model: Any, limits: Limits) -> dict[str, Any]:
    """Return the thinking options of a request for a model.

    Raises:
        Refused: If the model does not think, or an option is out of range.
    """
    options = asked.thinking()
    if not hasattr(model, "thinking"):
        name = next(iter(options), "energies" if asked.energies else None)
        if name is not None:
            raise Refused(400, f"{asked.model} is a feed-forward model and does not think: leave out {name}", name)
        return {}
    try:
        how = model.how(**options)
    except (InputError, ValueError) as error:
        raise Refused(400, str(error)) from None
    if "noise" in options and options["noise"] > 0 and how.candidates < 2:
        raise Refused(400, "noise applies to all candidates but the first, and there is only one: raise candidates", "noise")
    if "noise_steps" in options and not how.noise:
        raise Refused(400, "noise_steps needs noise: give noise above 0, or leave it out", "noise_steps")
    if (need := how.candidates * model.config.context_length) > limits.positions:
        raise Refused(400, f"candidates x context is {need}, and this server takes at most {limits.positions}", "candidates")
    return options
