"""A model behind an OpenAI-compatible endpoint: `POST {base_url}/embeddings`."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import sha256
from typing import Any

import httpx2
import numpy as np
import orjson
import stamina
from pydantic import SecretStr

from contex_server.matching.embedders.batcher import Batcher, stacked
from contex_server.matching.embedders.breaker import Breaker
from contex_server.matching.embedders.port import EmbeddingFailed, ModelInvalid, Role, Vector
from contex_server.matching.embedders.units import unit

DEFAULT_MAX_TOKENS = 8_192

_CHARS_PER_TOKEN = 4
"""Of English text. What is cut too late is refused, and then halved."""
_CHARS_PER_BATCH = 200_000
_ANSWER_BYTES = 64 * 1024 * 1024
_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 5.0
_LONGEST_RETRY_AFTER_S = 30.0
_SHOWN_CHARS = 300
_SHORTEST_TEXT = 64
"""A text of so many characters that is still too long is given up."""
_RETRIED = frozenset({408, 409, 429, *range(500, 600)})
_ABOUT_THE_TEXTS = frozenset({400, 413, 422})
_TOO_LONG = re.compile(r"too (long|large)|context.length|max(imum)?\W.*token|token.*max", re.I)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is asked, and how.

    Attributes:
        base_url: What lies before `/embeddings`, without credentials.
        model: The model's name there.
        api_key: Sent as bearer token.
        dimension: Length of its vectors; None: found out at the start.
        shorten: Asks the model for vectors of `dimension`; few models can.
        max_tokens: Texts are cut at four times as many characters.
        batch_size: Most texts of a request.
        concurrency: Most requests at once.
        timeout_s: For each attempt, answer and all.
        max_retries: Attempts beyond the first.
    """

    base_url: str
    model: str
    api_key: SecretStr | None = None
    dimension: int | None = None
    shorten: bool = False
    need_prefix: str = ""
    datum_prefix: str = ""
    max_tokens: int = DEFAULT_MAX_TOKENS
    batch_size: int = 64
    concurrency: int = 4
    timeout_s: float = 10.0
    max_retries: int = 3

    @property
    def model_id(self) -> str:
        """The model's name, and a digest of all that its vectors depend on."""
        parts = [self.base_url, self.model, self.need_prefix, self.datum_prefix, self.max_tokens]
        parts.append(self.dimension if self.shorten else None)
        return f"{self.model}@{sha256(orjson.dumps(parts)).hexdigest()[:8]}"


class EndpointUnreachable(ConnectionError):
    """The endpoint did not answer the start's question."""


class OpenAIEmbedder:
    """An embedder that asks an endpoint.

    Texts of callers that wait at the same time share requests. A failed request is repeated
    with growing, jittered delays, or when the endpoint says; after several failed batches a
    breaker keeps further ones from it for a while, and callers fail at once.

    An instance belongs to one event loop.
    """

    def __init__(
        self, endpoint: Endpoint, *, breaker: Breaker | None = None, cached_texts: int = 2_048
    ) -> None:
        """Creates an embedder; nothing is sent before `start` or the first text."""
        self._endpoint = endpoint
        self._breaker = breaker or Breaker()
        self._dimension = endpoint.dimension
        self._client: httpx2.AsyncClient | None = None
        self._batcher = Batcher(
            self._compute,
            texts_per_turn=endpoint.batch_size,
            chars_per_turn=_CHARS_PER_BATCH,
            concurrency=endpoint.concurrency,
            cached_texts=cached_texts,
        )

    @property
    def model_id(self) -> str:
        """See `Embedder.model_id`."""
        return self._endpoint.model_id

    @property
    def dimension(self) -> int:
        """See `Embedder.dimension`."""
        if self._dimension is None:
            raise RuntimeError("the model's dimension is not known yet")
        return self._dimension

    @property
    def max_tokens(self) -> int:
        """See `Embedder.max_tokens`."""
        return self._endpoint.max_tokens

    async def start(self) -> None:
        """Asks for one vector if the dimension is not configured.

        Raises:
            ModelInvalid: The endpoint refuses, or its answer is none.
            EndpointUnreachable: It can't be reached, or fails.
        """
        if self._dimension is not None:
            return
        try:
            await self._post(["dimension"], self._endpoint.max_retries + 1)
        except _Answered as error:
            kind = EndpointUnreachable if error.status in _RETRIED else ModelInvalid
            raise kind(str(error)) from error
        except _Unanswered as error:
            raise EndpointUnreachable(str(error)) from error
        except EmbeddingFailed as error:
            raise ModelInvalid(str(error)) from error

    async def embed(self, texts: Sequence[str], role: Role) -> Vector:
        """See `Embedder.embed`.

        Raises:
            EmbeddingFailed: The endpoint failed or refused the text, or its answer can't be
                used; `CircuitOpen` if it wasn't asked.
            RuntimeError: The embedder is closed.
        """
        prefix = self._endpoint.need_prefix if role is Role.NEED else self._endpoint.datum_prefix
        chars = self._endpoint.max_tokens * _CHARS_PER_TOKEN
        cut = [(prefix + text)[:chars] for text in texts]
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
        ended = self._breaker.abandoned
        try:
            rows = await self._divide(texts, 1 if probe else self._endpoint.max_retries + 1)
            if any(not isinstance(row, Exception) for row in rows):
                ended = self._breaker.succeeded
            return rows
        except Exception:
            ended = self._breaker.failed
            raise
        finally:
            ended()

    async def _divide(self, texts: list[str], attempts: int) -> list[Vector | Exception]:
        """Embeds texts; what is refused for its content is tried by halves.

        So a text that the endpoint does not take fails alone, and a batch or a text that is
        too large becomes smaller.
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
                return self._checked(await self._ask(texts), len(texts))
        raise AssertionError("unreachable")

    async def _ask(self, texts: list[str]) -> bytes:
        """One attempt; returns the body of a success."""
        endpoint = self._endpoint
        if self._client is None:
            headers = {"Content-Type": "application/json", "Accept": "application/json"}
            if endpoint.api_key is not None:
                headers["Authorization"] = f"Bearer {endpoint.api_key.get_secret_value()}"
            self._client = httpx2.AsyncClient(headers=headers, timeout=endpoint.timeout_s)
        question: dict[str, Any] = {
            "model": endpoint.model,
            "input": texts,
            "encoding_format": "float",
        }
        if endpoint.shorten:
            question["dimensions"] = endpoint.dimension
        url = f"{endpoint.base_url.rstrip('/')}/embeddings"
        body = bytearray()
        try:
            # The client's own timeouts are for each step of a request.
            async with asyncio.timeout(endpoint.timeout_s):
                content = orjson.dumps(question)
                async with self._client.stream("POST", url, content=content) as answer:
                    async for chunk in answer.aiter_bytes():
                        body += chunk
                        if len(body) > _ANSWER_BYTES:
                            raise EmbeddingFailed(f"{url} answers more than {_ANSWER_BYTES} bytes")
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise _Unanswered(f"{url}: no answer within {endpoint.timeout_s:g} s") from error
        except httpx2.HTTPError as error:
            raise _Unanswered(f"{url}: {self._harmless(str(error) or repr(error))}") from error
        if answer.status_code == 200:
            return bytes(body)
        said = self._harmless(_said(bytes(body)))[:_SHOWN_CHARS]
        raise _Answered(
            f"{url} answered {answer.status_code}{said and f': {said}'}",
            answer.status_code,
            retry_after_s=_retry_after_s(answer.headers.get("Retry-After")),
            too_long=answer.status_code == 413 or _TOO_LONG.search(said) is not None,
        )

    def _checked(self, body: bytes, count: int) -> Vector:
        """The vectors of an answer, in the order of the question.

        Raises:
            EmbeddingFailed: It is not what was asked for.
        """
        url = self._endpoint.base_url
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

    def _harmless(self, text: str) -> str:
        key = self._endpoint.api_key
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


def _said(body: bytes) -> str:
    """What an error's body says, in a line that fits a log."""
    try:
        said = orjson.loads(body)
        for name in ("error", "message"):
            said = said.get(name, said) if isinstance(said, dict) else said
        text = said if isinstance(said, str) else orjson.dumps(said).decode()
    except orjson.JSONDecodeError:
        text = body.decode(errors="replace")
    return " ".join(text.split())
