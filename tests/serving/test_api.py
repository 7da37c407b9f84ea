"""The server, through the official client and plain HTTP."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from small_models import CONTEXT, language_ebt, language_twin

from ebt.problems.language.tokenizers import byte_tokenizer

openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx2")
WEB = httpx.Client(timeout=60, trust_env=False)
PROMPTS = ["The fox", "a", "naïve", "x" * 20]
Server = tuple[str, Any]


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for something."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def client(server: Server) -> Any:
    return openai.OpenAI(base_url=f"{server[0]}/v1", api_key="none", max_retries=0)


def generated(prompt: str, tokens: int, model: Any = None, **options: Any) -> str:
    ids = torch.tensor([list(prompt.encode())])
    made = (model or language_ebt()).generate(ids, max_new_tokens=tokens, do_sample=False, pad_token_id=256, **options)
    return byte_tokenizer().decode(made[0, ids.shape[1] :], skip_special_tokens=True)


def post(server: Server, body: Any, path: str = "completions", **headers: str) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **headers}
    return WEB.post(f"{server[0]}/v1/{path}", content=content, headers=headers)


def test_models_are_listed(client: Any, server: Server) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "chat", "twin"]
    assert client.models.retrieve("tiny").context_length == CONTEXT
    assert WEB.get(f"{server[0]}/health").json()["status"] == "ok"


@pytest.mark.parametrize("thinking", [{}, {"steps": 5, "candidates": 3, "rule": "mean", "thinking_seed": 4}])
def test_greedy_text_is_that_of_generate(client: Any, thinking: dict[str, Any]) -> None:
    """A list of prompts is one batch, padded on the left; one of them grows beyond the context."""
    answer = client.completions.create(model="tiny", prompt=PROMPTS, max_tokens=6, temperature=0, extra_body=thinking)
    options = {name.removeprefix("thinking_"): value for name, value in thinking.items()}
    assert [choice.text for choice in answer.choices] == [generated(prompt, 6, **options) for prompt in PROMPTS]
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    assert answer.usage.completion_tokens == 24


def test_token_ids_are_prompts_and_a_twin_answers(client: Any) -> None:
    answer = client.completions.create(model="twin", prompt=list(b"The fox"), max_tokens=4, temperature=0)
    assert answer.choices[0].text == generated("The fox", 4, language_twin())


def test_requests_at_once_are_one_batch_with_the_same_texts(serve: Callable[..., Server]) -> None:
    """Sampled texts depend on the request's own seed only."""
    server = serve()
    engine = server[1].state.server.engine
    bodies = [
        {"model": "tiny", "prompt": PROMPTS[i % 4], "max_tokens": 3 + i, "seed": i, "temperature": 0.7, "top_p": 0.9, "n": 2}
        for i in range(4)
    ]

    def texts(body: dict[str, Any]) -> list[str]:
        return [choice["text"] for choice in post(server, body).json()["choices"]]

    alone = [texts(body) for body in bodies]
    assert engine.largest == 2
    blocker = {"model": "twin", "prompt": "x", "max_tokens": 60}
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(texts, blocker)
        until(lambda: server[1].state.server.open == 1)
        together = list(pool.map(texts, bodies))
        first.result()
    assert together == alone
    assert engine.largest > 2
    assert len({tuple(pair) for pair in alone}) == 4


def test_streams_are_the_same_as_whole_answers(client: Any) -> None:
    asked = {"model": "tiny", "prompt": PROMPTS, "max_tokens": 8, "seed": 3, "logprobs": 2, "echo": True, "n": 2}
    extra = {"energies": True, "steps": 2}
    whole = client.completions.create(**asked, extra_body=extra)
    texts, energies, chances = ([[] for _ in whole.choices] for _ in range(3))
    stream = client.completions.create(**asked, extra_body=extra, stream=True, stream_options={"include_usage": True})
    usage = None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index].append(choice.text)
            energies[choice.index] += choice.energies
            chances[choice.index] += choice.logprobs.token_logprobs
    assert ["".join(parts) for parts in texts] == [choice.text for choice in whole.choices]
    assert energies == [choice.energies for choice in whole.choices]
    assert chances == [choice.logprobs.token_logprobs for choice in whole.choices]
    assert usage == whole.usage
    assert max(map(len, texts)) > 2


def test_log_probabilities_and_energies_are_those_of_the_model(client: Any) -> None:
    answer = client.completions.create(
        model="tiny", prompt="The fox", max_tokens=3, temperature=0, logprobs=3, echo=True, extra_body={"energies": True}
    )
    choice = answer.choices[0]
    made = language_ebt().generate(torch.tensor([list(b"The fox")]), max_new_tokens=3, do_sample=False, pad_token_id=256)
    output = language_ebt()(made[:, :-1])
    expected = output.logits[0].log_softmax(-1).gather(1, made[0, 1:, None])[:, 0]
    assert choice.logprobs.token_logprobs == [None, *(pytest.approx(p, rel=1e-4) for p in expected.tolist())]
    assert choice.energies == [None, *(pytest.approx(e) for e in output.energies[-1, 0].tolist())]
    assert choice.logprobs.tokens[:7] == list("The fox")
    assert choice.logprobs.text_offset[:8] == list(range(8))
    assert choice.text.startswith("The fox")
    assert all(
        max(top.values()) == pytest.approx(best, rel=1e-4)
        for top, best in zip(choice.logprobs.top_logprobs[1:], output.logits[0].log_softmax(-1).amax(-1).tolist(), strict=True)
    )


def test_a_prompt_alone_is_scored(client: Any) -> None:
    answer = client.completions.create(model="tiny", prompt="The fox", max_tokens=0, logprobs=0, echo=True)
    assert (answer.choices[0].text, len(answer.choices[0].logprobs.tokens)) == ("The fox", 7)


def test_text_ends_before_a_stop(client: Any) -> None:
    full = generated("a", 20)
    stop = full[9:11]
    asked = {"model": "tiny", "prompt": "a", "max_tokens": 20, "temperature": 0, "stop": ["never", stop], "logprobs": 0}
    choice = client.completions.create(**asked).choices[0]
    assert (choice.text, choice.finish_reason) == (full[: full.index(stop)], "stop")
    assert all(offset < len(choice.text) for offset in choice.logprobs.text_offset)
    streamed = "".join(chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True))
    assert streamed == choice.text


def test_chats_go_through_the_template(client: Any) -> None:
    messages = [{"role": "user", "content": "hi"}]
    asked = {"model": "chat", "messages": messages, "max_completion_tokens": 5, "temperature": 0}
    answer = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    text = answer.choices[0].message.content
    assert text == generated("u:hi;a:", 5)
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2
    stream = client.chat.completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].delta.content for chunk in stream) == text
    with pytest.raises(openai.BadRequestError, match="no chat template: use /v1/completions"):
        client.chat.completions.create(model="tiny", messages=messages)


BASE: dict[str, Any] = {"model": "tiny", "prompt": "x", "max_tokens": 1}


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"model": "other"}, 404, "no model 'other': choose from tiny"),
        ({"stpes": 3}, 400, "no field 'stpes'"),
        ({"presence_penalty": 1}, 400, "presence_penalty is not supported"),
        ({"max_tokens": 5000}, 400, "max_tokens is 5000, and this server takes at most 1024"),
        ({"steps": 10**6}, 400, "steps is 1000000"),
        ({"steps": 0}, 400, "steps"),
        ({"candidates": 65}, 400, "candidates is 65"),
        ({"rule": "best"}, 400, "rule is 'best'"),
        ({"noise": 1.0}, 400, "raise candidates"),
        ({"noise_steps": 1, "candidates": 2}, 400, "noise_steps needs noise"),
        ({"thinking_stop": "os.system('x')"}, 400, "choose one of change, energy, budget"),
        ({"model": "twin", "steps": 2}, 400, "does not think: leave out steps"),
        ({"model": "twin", "energies": True}, 400, "does not think: leave out energies"),
        ({"prompt": ""}, 400, "the prompt is empty"),
        ({"prompt": []}, 400, "prompt: "),
        ({"prompt": "x" * (CONTEXT + 1)}, 400, "the model's context is 24"),
        ({"prompt": [1, 257]}, 400, "token 257"),
        ({"prompt": ["x"] * 65}, 400, "65 choices"),
        ({"n": 65}, 400, "65 choices"),
        ({"n": True}, 400, "n: "),
        ({"temperature": -1}, 400, "temperature: "),
        ({"stop": ""}, 400, "stop takes"),
        ({"max_tokens": 0}, 400, "needs echo"),
    ],
)
def test_what_cannot_be_served_is_named(server: Server, change: dict[str, Any], status: int, message: str) -> None:
    answer = post(server, {**BASE, **change})
    error = answer.json()["error"]
    assert (answer.status_code, message in error["message"]) == (status, True), error
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"", b"{", b'"x"', b"\xff", b'{"model": NaN}', b"[" * 10000, b'{"model": "\\ud800"}'])
def test_malformed_requests_are_told(server: Server, body: bytes) -> None:
    answer = post(server, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_requests_too_large_of_another_type_or_host_are_refused(server: Server) -> None:
    assert post(server, b" " * (2**20 + 1)).status_code == 413
    assert post(server, BASE, **{"Content-Type": "text/plain"}).status_code == 415
    assert post(server, BASE, Host="elsewhere.example").status_code == 400
    assert post(server, BASE, path="nothing").json()["error"]["message"]
    assert post(server, {**BASE, "user": "me", "best_of": 1, "suffix": None}).status_code == 200


def test_a_key_is_asked_for(serve: Callable[..., Server]) -> None:
    server = serve(key="sésame")
    assert post(server, BASE).status_code == 401
    assert WEB.get(f"{server[0]}/v1/models").status_code == 401
    assert WEB.get(f"{server[0]}/health").status_code == 200
    client = openai.OpenAI(base_url=f"{server[0]}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        client.completions.create(**BASE)
    headers = [(b"Authorization", "Bearer sésame".encode()), (b"Content-Type", b"application/json")]
    answer = WEB.post(f"{server[0]}/v1/completions", content=json.dumps(BASE).encode(), headers=headers)
    assert answer.status_code == 200


def test_a_hundred_at_once_are_answered_or_told_to_try_again(serve: Callable[..., Server]) -> None:
    from ebt.serving.protocol import Limits

    server = serve(limits=Limits(open=20))
    state = server[1].state.server
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda _: post(server, {**BASE, "temperature": 0, "max_tokens": 4}), range(100)))
    served = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(served) + len(refused) == 100
    assert len(served) >= 20
    assert all(answer.headers["Retry-After"] for answer in refused)
    assert {answer.json()["choices"][0]["text"] for answer in served} == {generated("x", 4)}
    until(lambda: state.open == 0)


@pytest.mark.parametrize("stream", [True, False])
def test_generation_ends_when_the_client_leaves(server: Server, stream: bool) -> None:
    state = server[1].state.server
    body = {"model": "tiny", "prompt": "x", "max_tokens": 1024, "steps": 60, "temperature": 0, "stream": stream}
    with (
        contextlib.nullcontext() if stream else pytest.raises(httpx.ReadTimeout),
        WEB.stream("POST", f"{server[0]}/v1/completions", json=body, timeout=60 if stream else 0.3) as answer,
    ):
        next(answer.iter_lines())
    until(lambda: state.open == 0, 5)
    assert post(server, {**BASE, "temperature": 0}).json()["choices"][0]["text"] == generated("x", 1)


def test_a_failure_is_answered_and_does_not_end_the_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    model = server[1].state.server.models["tiny"].model
    with monkeypatch.context() as patch:
        patch.setattr(model, "generate", lambda *_, **__: 1 / 0)
        answer = post(server, BASE)
    assert answer.status_code == 500
    assert "ZeroDivisionError" in answer.json()["error"]["message"]
    assert post(server, BASE).status_code == 200
