"""A model behind an OpenAI-compatible endpoint: `POST {base_url}/embeddings`."""

from __future__ import annotations

import asyncio
import ipaddress
import random
import re
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import sha256

import httpx2
import numpy as np
import orjson
import stamina

from contex_server.kernel.config import EmbedderSettings
from contex_server.matching.embedders.batcher import Batcher, stacked
from contex_server.matching.embedders.breaker import Breaker
from contex_server.matching.embedders.port import EmbeddingFailed, ModelInvalid, Role, Vector, unit

DEFAULT_MAX_TOKENS = 8_192

_CHARS_PER_TOKEN = 4
"""Of English text. What is cut too late is refused, and then halved."""
_CHARS_PER_BATCH = 200_000
_ANSWER_BYTES = 64 * 1024 * 1024
_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 5.0
_LONGEST_RETRY_AFTER_S = 30.0
_SHOWN_CHARS = 300
_QUOTED_CHARS, _SHORT_CHARS = 16, 8
"""This many characters that a message and a text share are a quotation, or a text of so many."""
_COMPARED_CHARS = 1_000
"""Of each text: a message quotes its beginning."""
_SHORTEST_TEXT = 64
"""A text no longer than this that is still too long is given up."""
_RETRIED = frozenset({408, 409, 429, *range(500, 600)})
_ABOUT_THE_TEXTS = frozenset({400, 413, 422})
_TOO_LONG = re.compile(r"too (long|large)|context.length|max(imum)?\W.*token|token.*max", re.I)


def model_id(settings: EmbedderSettings) -> str:
    """The model's name, and a digest of all that its vectors depend on."""
    parts = [
        settings.base_url,
        settings.model,
        settings.need_prefix or "",
        settings.datum_prefix or "",
        settings.max_tokens or DEFAULT_MAX_TOKENS,
        settings.dimension if settings.shorten else None,
    ]
    return f"{settings.model}@{sha256(orjson.dumps(parts)).hexdigest()[:8]}"


class EndpointUnreachable(ConnectionError):
    """The endpoint did not answer at startup."""


class OpenAIEmbedder:
    """An embedder that asks an endpoint.

    Texts of callers that wait at the same time share requests. A failed request is repeated
    with growing, jittered delays, or when the endpoint says; after several failed batches a
    breaker keeps further ones from it for a while, and callers fail at once.

    An instance belongs to one event loop.
    """

    def __init__(self, settings: EmbedderSettings, *, breaker: Breaker | None = None) -> None:
        """Creates an embedder; nothing is sent before `start` or the first text."""
        self._settings = settings
        self.model_id = model_id(settings)
        self.max_tokens = settings.max_tokens or DEFAULT_MAX_TOKENS
        self._attempts = settings.max_retries + 1
        self._breaker = breaker or Breaker()
        self._dimension = settings.dimension
        self._client: httpx2.AsyncClient | None = None
        self._batcher = Batcher(
            self._compute,
            texts_per_turn=settings.batch_size,
            chars_per_turn=_CHARS_PER_BATCH,
            concurrency=settings.concurrency,
        )

    @property
    def dimension(self) -> int:
        if self._dimension is None:
            raise RuntimeError("the model's dimension is not known yet")
        return self._dimension

    async def start(self) -> None:
        """Asks for one vector if the dimension is not configured."""
        if self._dimension is not None:
            return
        try:
            await self._post(["dimension"], self._attempts)
        except _Answered as error:
            kind = EndpointUnreachable if error.status in _RETRIED else ModelInvalid
            raise kind(str(error)) from error
        except _Unanswered as error:
            raise EndpointUnreachable(str(error)) from error
        except EmbeddingFailed as error:
            raise ModelInvalid(str(error)) from error

    async def embed(self, texts: Sequence[str], role: Role) -> Vector:
        settings = self._settings
        prefix = (settings.need_prefix if role is Role.NEED else settings.datum_prefix) or ""
        cut = [(prefix + text)[: self.max_tokens * _CHARS_PER_TOKEN] for text in texts]
        if not all(map(self._batcher.is_recent, cut)):
            self._breaker.check()
        return stacked(await self._batcher.embed(cut), self._dimension or 0)

    async def close(self) -> None:
        """Drops the requests under way; texts that still wait fail."""
        await self._batcher.close()
        if self._client is not None:
            await self._client.aclose()

    async def _compute(self, texts: list[str]) -> Sequence[Vector | Exception]:
        probe = self._breaker.admit()
        outcome = self._breaker.abandoned
        try:
            rows = await self._divide(texts, 1 if probe else self._attempts)
            if any(not isinstance(row, Exception) for row in rows):
                outcome = self._breaker.succeeded
            return rows
        except Exception:
            outcome = self._breaker.failed
            raise
        finally:
            outcome()

    async def _divide(self, texts: list[str], attempts: int) -> list[Vector | Exception]:
        """Embeds texts; what is refused for its content is tried by halves.

        A text that the endpoint refuses fails alone, and what is too large becomes smaller.
        """
        try:
            return [*await self._post(texts, attempts)]
        except _Answered as error:
            if error.status not in _ABOUT_THE_TEXTS:
                raise
            if len(texts) > 1:
                half = len(texts) // 2
                first = await self._divide(texts[:half], attempts)
                return first + await self._divide(texts[half:], attempts)
            (text,) = texts
            if error.too_long and len(text) > _SHORTEST_TEXT:
                return await self._divide([text[: len(text) // 2]], attempts)
            return [error]

    async def _post(self, texts: list[str], attempts: int) -> Vector:
        async for attempt in stamina.retry_context(
            on=_wait,
            attempts=attempts,
            timeout=None,
            wait_initial=_FIRST_WAIT_S,
            wait_max=_LONGEST_WAIT_S,
            wait_jitter=_FIRST_WAIT_S,
        ):
            with attempt:
                return self._vectors(await self._ask(texts), len(texts))
        raise AssertionError("unreachable")

    async def _ask(self, texts: list[str]) -> bytes:
        """One attempt; returns the body of a success."""
        settings = self._settings
        assert settings.base_url is not None
        if self._client is None:
            headers = {"Content-Type": "application/json", "Accept": "application/json"}
            if settings.api_key is not None:
                headers["Authorization"] = f"Bearer {settings.api_key.get_secret_value()}"
            self._client = httpx2.AsyncClient(
                headers=headers,
                timeout=settings.timeout_s,
                # With a transport of its own, the client looks for no proxy in the environment.
                transport=httpx2.AsyncHTTPTransport() if _is_loopback(settings.base_url) else None,
            )
        question: dict[str, object] = {"model": settings.model, "input": texts}
        question["encoding_format"] = "float"
        if settings.shorten:
            question["dimensions"] = settings.dimension
        url = f"{settings.base_url.rstrip('/')}/embeddings"
        body = bytearray()
        try:
            # The client's own timeouts are for each step of a request.
            async with asyncio.timeout(settings.timeout_s):
                content = orjson.dumps(question)
                async with self._client.stream("POST", url, content=content) as answer:
                    async for chunk in answer.aiter_bytes():
                        body += chunk
                        if len(body) > _ANSWER_BYTES:
                            raise EmbeddingFailed(f"{url} answers more than {_ANSWER_BYTES} bytes")
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise _Unanswered(
                f"{url}{_through(url)}: no answer within {settings.timeout_s:g} s"
            ) from error
        except httpx2.HTTPError as error:
            message = self._redacted(str(error) or repr(error))
            raise _Unanswered(f"{url}{_through(url)}: {message}") from error
        if answer.status_code == 200:
            return bytes(body)
        message = self._redacted(_error_message(bytes(body)))[:_SHOWN_CHARS]
        too_long = answer.status_code == 413 or _TOO_LONG.search(message) is not None
        if _quotes(message, texts):
            # It would reach the log, and callers whose text was embedded in the same request.
            message = "(it quotes a text)"
        raise _Answered(
            f"{url} answered {answer.status_code}{message and f': {message}'}",
            answer.status_code,
            retry_after_s=_retry_after_s(answer.headers.get("Retry-After")),
            too_long=too_long,
        )

    def _vectors(self, body: bytes, count: int) -> Vector:
        """The vectors of an answer, in the order of the question."""
        url = self._settings.base_url
        try:
            data = orjson.loads(body)["data"]
            places = [item.get("index", place) for place, item in enumerate(data)]
            if sorted(places) != list(range(count)):
                raise EmbeddingFailed(
                    f"{url} answered {len(data)} vectors, or another order, for {count} texts"
                )
            rows = [item["embedding"] for _, item in sorted(zip(places, data, strict=True))]
            vectors = np.array(rows, np.float64)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise EmbeddingFailed(f"{url}: the answer is no list of embeddings") from error
        if vectors.ndim != 2 or not np.isfinite(vectors).all() or not vectors.any(axis=1).all():
            raise EmbeddingFailed(f"{url} answered a vector that is empty or not finite")
        if self._dimension is None:
            self._dimension = vectors.shape[1]
        if vectors.shape[1] != self._dimension:
            raise EmbeddingFailed(
                f"{url} answered vectors of {vectors.shape[1]} dimensions, not {self._dimension}"
            )
        # First to a largest component of 1: squares of what is answered may overflow.
        vectors /= np.abs(vectors).max(axis=1, keepdims=True)
        return unit(vectors.astype(np.float32))

    def _redacted(self, text: str) -> str:
        key = self._settings.api_key
        return text.replace(key.get_secret_value(), "…") if key else text


class _Unanswered(EmbeddingFailed):
    """No answer, or none in time."""


class _Answered(EmbeddingFailed):
    """The endpoint answered with an error."""

    def __init__(
        self, message: str, status: int, *, retry_after_s: float | None, too_long: bool
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
        self.too_long = too_long


def _wait(error: Exception) -> bool | float:
    """Whether to try again, or when."""
    if isinstance(error, _Answered):
        if error.status not in _RETRIED:
            return False
        if error.retry_after_s is not None:
            bounded = min(error.retry_after_s, _LONGEST_RETRY_AFTER_S)
            return bounded + random.random() * _FIRST_WAIT_S
        return True
    return isinstance(error, _Unanswered)


def _quotes(message: str, texts: list[str]) -> bool:
    """Whether a message, which is one line, has a part of a text in it, or a whole short one."""
    told, size = message.casefold(), _QUOTED_CHARS
    parts = {told[at : at + size] for at in range(len(told) - size + 1)}
    for text in texts:
        line = " ".join(text[:_COMPARED_CHARS].split()).casefold()
        if _SHORT_CHARS <= len(line) < size and line in told:
            return True
        if any(line[at : at + size] in parts for at in range(len(line) - size + 1)):
            return True
    return False


def _is_loopback(url: str) -> bool:
    """Whether a URL leads to this machine, which no proxy does."""
    host = httpx2.URL(url).host
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def _through(url: str) -> str:
    """Names the proxy of the environment that is on the way to a URL, if any."""
    parsed, proxies = httpx2.URL(url), urllib.request.getproxies()
    proxy = proxies.get(parsed.scheme) or proxies.get("all")
    if not proxy or _is_loopback(url) or urllib.request.proxy_bypass(parsed.host):
        return ""
    return f" through the proxy {proxy.rpartition('@')[2]}"


def _retry_after_s(header: str | None) -> float | None:
    if header is None:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", header):
        return float(header)
    try:
        when = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (when.astimezone(UTC) - datetime.now(UTC)).total_seconds())


def _error_message(body: bytes) -> str:
    """The message in an error's body, in one line."""
    try:
        message = orjson.loads(body)
        for name in ("error", "message"):
            message = message.get(name, message) if isinstance(message, dict) else message
        text = message if isinstance(message, str) else orjson.dumps(message).decode()
    except orjson.JSONDecodeError:
        text = body.decode(errors="replace")
    return " ".join(text.split())
