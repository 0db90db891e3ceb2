from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest
from contex_server.kernel.config import EmbedderSettings
from contex_server.kernel.errors import StartupError
from contex_server.matching.embedders import create, load
from contex_server.matching.embedders import openai as module
from contex_server.matching.embedders.breaker import Breaker, CircuitOpen
from contex_server.matching.embedders.openai import EndpointUnreachable, OpenAIEmbedder, model_id
from contex_server.matching.embedders.port import EmbeddingFailed, ModelInvalid, Role
from pydantic import SecretStr
from structlog.testing import capture_logs

from tests.unit.matching.embedders import endpoint as loopback
from tests.unit.matching.embedders.endpoint import DROP, HANG, Answer, Request, embeddings, vector

KEY = "sk-secret-0123456789"
NEED, DATUM = Role.NEED, Role.DATUM
Build = Callable[..., OpenAIEmbedder]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_WAIT_S", 0.001)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def there() -> AsyncIterator[loopback.Endpoint]:
    async with loopback.endpoint() as found:
        yield found


@pytest.fixture
async def build(there: loopback.Endpoint) -> AsyncIterator[Build]:
    built = []

    def build(*, breaker: Breaker | None = None, **fields: Any) -> OpenAIEmbedder:
        defaults = {"base_url": there.url, "model": "tiny", "dimension": 3}
        # Not validated, since tests cut texts shorter than users can.
        asked = EmbedderSettings.model_construct(**{"kind": "openai", **defaults, **fields})
        built.append(OpenAIEmbedder(asked, breaker=breaker))
        return built[-1]

    yield build
    for model in built:
        await model.close()


def rows(*texts: str) -> np.ndarray:
    vectors = np.array([vector(text) for text in texts])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


async def failure(model: OpenAIEmbedder, *texts: str) -> str:
    with pytest.raises(EmbeddingFailed) as caught:
        await model.embed(texts or ("text",), DATUM)
    return str(caught.value)


# -- asking ----------------------------------------------------------------------------


@pytest.mark.parametrize("proxy", ["http://user:secret@127.0.0.1:9", "socks5://127.0.0.1:9"])
@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy"])
async def test_an_endpoint_on_this_machine_is_asked_directly(
    build: Build, monkeypatch: pytest.MonkeyPatch, variable: str, proxy: str
) -> None:
    monkeypatch.setenv(variable, proxy)
    assert (await build().embed(["a"], NEED)).shape == (1, 3)


async def test_a_failure_names_the_endpoint_and_its_proxy(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://user:secret@127.0.0.1:9")
    message = await failure(build(base_url="http://models.example.com/v1", max_retries=0))
    expected = "http://models.example.com/v1/embeddings through the proxy 127.0.0.1:9: "
    assert message.startswith(expected)
    assert "secret" not in message


async def test_vectors_in_the_order_of_the_texts(there: loopback.Endpoint, build: Build) -> None:
    model = build(api_key=SecretStr(KEY))
    found = await model.embed(["a", "bcd", "a"], DATUM)
    assert found == pytest.approx(rows("a", "bcd", "a"))
    assert found.dtype == np.float32
    (request,) = there.requests
    assert request.path == "/v1/embeddings"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.body == {"model": "tiny", "input": ["a", "bcd"], "encoding_format": "float"}
    assert (await model.embed([], NEED)).shape == (0, 3)
    assert len(there.requests) == 1


async def test_what_is_not_configured_is_not_sent(there: loopback.Endpoint, build: Build) -> None:
    await build().embed(["a"], NEED)
    await build(shorten=True, base_url=there.url + "/").embed(["a"], NEED)
    plain, shortened = there.requests
    assert "authorization" not in plain.headers
    assert "dimensions" not in plain.body
    assert shortened.body["dimensions"] == 3
    assert shortened.path == "/v1/embeddings"


async def test_prefixes_and_cutting(there: loopback.Endpoint, build: Build) -> None:
    model = build(need_prefix="query: ", datum_prefix="passage: ", max_tokens=4)
    await model.embed(["a"], NEED)
    await model.embed(["a" * 100], DATUM)
    assert there.batches == [["query: a"], ["passage: aaaaaaa"]]
    assert model.max_tokens == 4


async def test_callers_share_requests_within_bounds(there: loopback.Endpoint, build: Build) -> None:
    model = build(batch_size=5, concurrency=2)
    there.gate.clear()
    callers = [asyncio.create_task(model.embed([f"{n:02}"], DATUM)) for n in range(20)]
    while there.under_way < 2:
        await asyncio.sleep(0.001)
    there.gate.set()
    for caller in callers:
        assert await caller == pytest.approx(rows("xx"))
    assert [len(batch) for batch in there.batches] == [5] * 4
    assert there.most == 2


async def test_the_dimension_is_found_out(there: loopback.Endpoint, build: Build) -> None:
    model = build(dimension=None)
    with pytest.raises(RuntimeError, match="not known"):
        _ = model.dimension
    await model.start()
    await model.start()
    assert model.dimension == 3
    assert len(there.requests) == 1


async def test_a_known_dimension_needs_no_endpoint_at_the_start(build: Build) -> None:
    model = build(base_url="http://127.0.0.1:1/v1")
    await model.start()
    assert model.dimension == 3


async def test_the_settings_name_it(there: loopback.Endpoint) -> None:
    model = create(
        EmbedderSettings(kind="openai", base_url=there.url, model="tiny", api_key=SecretStr(KEY))
    )
    await model.start()
    assert await model.embed(["a"], NEED) == pytest.approx(rows("a"))
    assert model.dimension == 3
    await model.close()


def test_the_id_names_everything_that_vectors_depend_on() -> None:
    def identity(base_url: str = "http://a/v1", model: str = "tiny", **fields: Any) -> str:
        return model_id(EmbedderSettings(kind="openai", base_url=base_url, model=model, **fields))

    others = [
        identity("http://b/v1"),
        identity(model="other"),
        identity(need_prefix="a"),
        identity(datum_prefix="a"),
        identity(max_tokens=9),
        identity(dimension=3, shorten=True),
    ]
    assert len({identity(), *others}) == 7
    alike = identity(api_key=SecretStr(KEY), dimension=3, batch_size=1, timeout_s=1)
    assert alike == identity() == "tiny@46c5fa35"


# -- failing ---------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, DROP])
async def test_what_may_pass_is_tried_again(
    there: loopback.Endpoint, build: Build, status: int
) -> None:
    there.answers.extend([status, status])
    with capture_logs():
        assert await build().embed(["a"], DATUM) == pytest.approx(rows("a"))
    assert len(there.requests) == 3


async def test_attempts_are_bounded(there: loopback.Endpoint, build: Build) -> None:
    there.answer = lambda _: Answer(500, {"error": {"message": "no\n room"}})
    with capture_logs() as logs:
        message = await failure(build(max_retries=2))
    assert message == f"{there.url}/embeddings answered 500: no room"
    assert len(there.requests) == 3
    assert [entry["event"] for entry in logs] == ["stamina.retry_scheduled"] * 2


@pytest.mark.parametrize(
    "text",
    ["a whole long text, which is quoted in a part", "short text", "lines\nof a payload, too"],
)
async def test_an_answer_that_quotes_a_text_is_not_told(
    there: loopback.Endpoint, build: Build, text: str
) -> None:
    line = " ".join(text.split())[:30]
    there.answer = lambda _: Answer(401, {"error": {"message": f"can't embed: {line!r}"}})
    embedder = build()
    with capture_logs(), pytest.raises(EmbeddingFailed) as failed:
        await embedder.embed(["another", text], DATUM)
    assert str(failed.value).endswith("answered 401: (it quotes a text)")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 307])
async def test_what_stays_wrong_is_not_tried_again(
    there: loopback.Endpoint, build: Build, status: int
) -> None:
    there.answers.append(Answer(status, b"<html>"))
    assert f"answered {status}: <html>" in await failure(build())
    assert len(there.requests) == 1


async def test_retry_after_is_kept_and_bounded(
    there: loopback.Endpoint, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.answers.append(Answer(429, headers={"Retry-After": "0.15"}))
    begin = time.monotonic()
    with capture_logs():
        await build().embed(["a"], DATUM)
        assert time.monotonic() - begin >= 0.15
        monkeypatch.setattr(module, "_LONGEST_RETRY_AFTER_S", 0.01)
        for header in ("3600", "Fri, 31 Dec 2099 23:59:59 GMT", "soon"):
            there.answers.append(Answer(503, headers={"Retry-After": header}))
            await build().embed(["a"], DATUM)
    assert time.monotonic() - begin < 5


def test_retry_after_as_seconds_or_date() -> None:
    assert module._retry_after_s(None) is None
    assert module._retry_after_s("2.5") == 2.5
    for nonsense in ("-1", "nan", "soon", ""):
        assert module._retry_after_s(nonsense) is None
    assert module._retry_after_s("Fri, 31 Dec 1999 23:59:59 GMT") == 0
    assert (module._retry_after_s("Fri, 31 Dec 2099 23:59:59 GMT") or 0) > 1e9


async def test_no_answer_in_time(there: loopback.Endpoint, build: Build) -> None:
    there.answers.extend([HANG, HANG])
    with capture_logs():
        message = await failure(build(timeout_s=0.2, max_retries=1))
        assert message == f"{there.url}/embeddings: no answer within 0.2 s"
        assert len(there.requests) == 2
        there.answers.append(HANG)
        # More attempts than are needed: a busy machine may be late with the second, too.
        await build(timeout_s=0.2, max_retries=9).embed(["a"], DATUM)


async def test_a_start_says_that_it_waits(there: loopback.Endpoint) -> None:
    there.answers.append(HANG)
    settings = EmbedderSettings(
        kind="openai", base_url=there.url, model="tiny", timeout_s=1, max_retries=0
    )
    with capture_logs() as logs:
        async with AsyncExitStack() as stack:
            with pytest.raises(StartupError, match="no answer within 1"):
                await load(settings, stack)
    (said,) = [line["waits_for"] for line in logs if line["event"] == "start_waits"]
    assert said == f"the embedding model at {there.url}"


async def test_nobody_there(build: Build) -> None:
    with capture_logs():
        message = await failure(build(base_url="http://127.0.0.1:1/v1", max_retries=1))
    assert message.startswith("http://127.0.0.1:1/v1/embeddings: ")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "no list of embeddings"),
        (b"[]", "no list of embeddings"),
        ({"data": None}, "no list of embeddings"),
        ({"data": [[1, 2, 3]]}, "no list of embeddings"),
        ({"data": []}, "answered 0 vectors"),
        ({"data": [{"index": 0, "embedding": [1, 2, 3]}]}, "answered 1 vectors"),
        ({"data": [{"index": 1, "embedding": [1, 2, 3]}] * 2}, "another order"),
        ({"data": [{"embedding": [1, 2]}, {"embedding": [1, 2]}]}, "2 dimensions, not 3"),
        ({"data": [{"embedding": [1, 2, 3]}, {"embedding": [1, 2]}]}, "no list of embeddings"),
        ({"data": [{"embedding": [1, 2, 3]}, {"embedding": "AAAA"}]}, "no list of embeddings"),
        ({"data": [{"embedding": [1, 2, None]}] * 2}, "not finite"),
        (b'{"data": [{"embedding": [1, 2, NaN]}, {"embedding": [1]}]}', "no list of embeddings"),
        ({"data": [{"embedding": [1, 2, 3]}, {"embedding": [0, 0, 0]}]}, "empty"),
        ({"data": [{"embedding": []}] * 2}, "empty"),
        ({"data": [{"embedding": 1}] * 2}, "empty"),
    ],
)
async def test_answers_are_checked(
    there: loopback.Endpoint, build: Build, body: object, problem: str
) -> None:
    there.answers.append(Answer(body=body))
    assert problem in await failure(build(), "a", "b")
    assert len(there.requests) == 1


async def test_large_numbers_and_no_index(there: loopback.Endpoint, build: Build) -> None:
    there.answers.append(Answer(body={"data": [{"embedding": [3e200, 0, 4e200]}]}))
    assert await build().embed(["a"], DATUM) == pytest.approx(np.array([[0.6, 0, 0.8]]))


async def test_an_endless_answer_is_dropped(
    there: loopback.Endpoint, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ANSWER_BYTES", 1_000)
    there.answers.append(Answer(body="x" * 2_000))
    assert "more than 1000 bytes" in await failure(build())


# -- refused texts -----------------------------------------------------------------------


def at_most(texts: int, chars: int) -> Callable[[Request], Answer | int]:
    def answer(request: Request) -> Answer | int:
        if len(request.texts) > texts or any(len(text) > chars for text in request.texts):
            return 413
        return embeddings(request)

    return answer


async def test_a_batch_that_is_too_large_is_split(there: loopback.Endpoint, build: Build) -> None:
    there.answer = at_most(2, 100)
    texts = ["a", "bb", "ccc", "dddd", "eeeee"]
    assert await build().embed(texts, DATUM) == pytest.approx(rows(*texts))
    assert [len(batch) for batch in there.batches] == [5, 2, 3, 1, 2]


async def test_a_text_that_is_too_long_is_cut(there: loopback.Endpoint, build: Build) -> None:
    there.answer = at_most(10, 100)
    found = await build().embed(["a" * 350, "b"], DATUM)
    assert found == pytest.approx(rows("a" * 87, "b"))


async def test_too_long_in_other_words(there: loopback.Endpoint, build: Build) -> None:
    said = {"error": {"message": "This model's maximum context length is 512 tokens."}}
    there.answers.extend([Answer(400, said), 200])
    await build().embed(["a" * 200], DATUM)
    assert there.batches == [["a" * 200], ["a" * 100]]


async def test_a_refused_text_fails_alone(there: loopback.Endpoint, build: Build) -> None:
    there.answer = lambda request: 422 if "bad" in request.texts else embeddings(request)
    model = build()
    good, bad = await asyncio.gather(
        model.embed(["a", "b"], DATUM), model.embed(["c", "bad"], DATUM), return_exceptions=True
    )
    assert good == pytest.approx(rows("a", "b"))
    assert isinstance(bad, EmbeddingFailed)
    assert "422" in str(bad)


# -- the breaker -------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_the_breaker_opens_probes_and_closes(there: loopback.Endpoint, build: Build) -> None:
    clock = Clock()
    breaker = Breaker(failures=2, shortest_s=1.0, clock=clock, jitter=lambda: 1.0)
    model = build(breaker=breaker, max_retries=1)
    await model.embed(["known"], DATUM)
    there.answer = lambda _: 503
    with capture_logs():
        await failure(model)
        await failure(model)
        assert len(there.requests) == 5

        assert "tried again in 1.0 s" in await failure(model)
        assert len(there.requests) == 5
        assert await model.embed(["known"], DATUM) == pytest.approx(rows("known"))

        clock.now += 1.0  # One batch probes, once; the others fail at once.
        there.gate.clear()
        probe = asyncio.create_task(failure(model))
        while not there.under_way:
            await asyncio.sleep(0.001)
        assert "keeps failing" in await failure(model, "another")
        there.gate.set()
        assert "503" in await probe
        assert len(there.requests) == 6
        assert "tried again in 2.0 s" in await failure(model)

    clock.now += 2.0
    there.answer = embeddings
    await model.embed(["text"], DATUM)
    await asyncio.gather(model.embed(["one"], DATUM), model.embed(["two"], DATUM))


async def test_refused_texts_do_not_open_it(there: loopback.Endpoint, build: Build) -> None:
    model = build(breaker=Breaker(failures=1))
    there.answers.append(422)
    await failure(model)
    await model.embed(["text"], DATUM)


async def test_a_probe_refused_for_its_text_lets_another_one_in(
    there: loopback.Endpoint, build: Build
) -> None:
    clock = Clock()
    model = build(breaker=Breaker(failures=1, clock=clock), max_retries=0)
    there.answers.append(500)
    await failure(model)
    clock.now += 5.0
    there.answers.append(422)
    assert "422" in await failure(model)
    await model.embed(["text"], DATUM)
    with pytest.raises(CircuitOpen):
        there.answers.append(500)
        await failure(model, "other")
        await model.embed(["third"], DATUM)


# -- starting, ending, the key ---------------------------------------------------------------


async def test_a_start_that_fails(there: loopback.Endpoint, build: Build) -> None:
    with capture_logs():
        there.answers.append(Answer(404, {"error": "no such model"}))
        with pytest.raises(ModelInvalid, match="answered 404: no such model"):
            await build(dimension=None).start()
        there.answers.append(Answer(body={"data": []}))
        with pytest.raises(ModelInvalid, match="0 vectors"):
            await build(dimension=None).start()
        there.answer = lambda _: 503
        with pytest.raises(EndpointUnreachable, match="503"):
            await build(dimension=None).start()
        with pytest.raises(OSError, match=r"127\.0\.0\.1:1/"):
            await build(dimension=None, base_url="http://127.0.0.1:1/v1").start()


async def test_closing_fails_who_waits(there: loopback.Endpoint, build: Build) -> None:
    model = build()
    there.gate.clear()
    waiting = asyncio.create_task(model.embed(["a"], DATUM))
    while not there.under_way:
        await asyncio.sleep(0.001)
    await model.close()
    with pytest.raises(RuntimeError, match="was closed"):
        await waiting
    with pytest.raises(RuntimeError, match="closed"):
        await model.embed(["b"], DATUM)


async def test_the_key_is_never_told(there: loopback.Endpoint, build: Build) -> None:
    there.answer = lambda request: Answer(
        401 if "b" in request.texts else 500,
        {"error": {"message": "x" * 290 + f" bad key: {request.headers['authorization']}"}},
    )
    model = build(api_key=SecretStr(KEY), max_retries=1)
    with capture_logs() as logs:
        told = [await failure(model, "a"), await failure(model, "b")]
    told += [repr(model._settings), json.dumps(logs, default=str)]
    for text in told:
        assert KEY[:8] not in text
