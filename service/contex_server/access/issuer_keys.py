"""The public keys of an issuer of tokens: fetched, kept while it is away, fetched again in time."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

import jwt
import structlog
from cryptography.exceptions import UnsupportedAlgorithm

from contex_server.kernel.config import Issuer, is_safe_url

log = structlog.get_logger(__name__)

T = TypeVar("T")

REFRESH_S = 600.0
KEEP_S = 24 * 3600.0
"""So long keys are good that could not be fetched again."""
FETCH_AGAIN_S = 10.0
"""However many tokens name keys that are not there, they are fetched once in this time."""
_FETCH_S = 5.0
_SOCKET_S = 3.0
_MOST_BYTES = 1 << 20
_MOST_KEYS = 100
_RSA_BITS = 2_048
_DISCOVERY = "/.well-known/openid-configuration"
_KINDS = ("RSA", "EC", "OKP")


class FetchFailed(Exception):
    """The keys could not be fetched; `str()` says why."""


@dataclass(frozen=True, eq=False)
class KeySet:
    """The keys of an issuer. Others are another set; the same ones, fetched again, are not.

    Attributes:
        keys: With their JWKs.
        document: The JWKs.
    """

    keys: tuple[tuple[Mapping[str, Any], jwt.PyJWK], ...] = ()
    document: object = None

    def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key that a token names; where it names none, the only one that fits."""
        found = [
            key
            for jwk, key in self.keys
            if (kid is None or jwk.get("kid") == kid) and key.algorithm_name == algorithm
        ]
        # RSA keys that name no algorithm do for each of RSA's.
        if not found:
            found = [
                jwt.PyJWK(dict(jwk), algorithm)
                for jwk, _ in self.keys
                if (kid is None or jwk.get("kid") == kid)
                and "alg" not in jwk
                and jwk["kty"] == "RSA"
                and algorithm[:2] in ("RS", "PS")
            ]
        return found[0] if len(found) == 1 or (found and kid is not None) else None

    def names(self, kid: str | None) -> bool:
        """Whether there is a key of this id; where a token names none, whether there is any."""
        return any(kid is None or jwk.get("kid") == kid for jwk, _ in self.keys)


@dataclass(eq=False)
class IssuerKeys:
    """The keys of one issuer. `follow` keeps them new."""

    issuer: Issuer
    refresh_s: float = REFRESH_S
    fetch_again_s: float = FETCH_AGAIN_S
    keep_s: float = KEEP_S
    _set: KeySet = field(default_factory=KeySet, init=False)
    _fetched_at: float | None = field(default=None, init=False)
    _tried_at: float | None = field(default=None, init=False)
    _fetching: asyncio.Task[None] | None = field(default=None, init=False)
    _failing: str = field(default="", init=False)

    @property
    def current(self) -> KeySet | None:
        """The keys; None if there are none, or none that are new enough."""
        if self._fetched_at is None or time.monotonic() - self._fetched_at > self.keep_s:
            return None
        return self._set

    async def having(self, kid: str | None) -> KeySet | None:
        """The keys, fetched again if this one is not among them and that is not too often."""
        current = self.current
        if current is not None and current.names(kid):
            return current
        if self._fetching is None and self._may_fetch():
            self._begin()
        if self._fetching is not None:
            await asyncio.shield(self._fetching)
        return self.current

    async def follow(self) -> None:
        """Fetches them at once, and then again and again; until it is cancelled."""
        try:
            while True:
                if self._fetching is None:
                    self._begin()
                assert self._fetching is not None
                await asyncio.shield(self._fetching)
                await asyncio.sleep(self.fetch_again_s if self._failing else self.refresh_s)
        finally:
            if self._fetching is not None:
                self._fetching.cancel()

    def _may_fetch(self) -> bool:
        tried_at = self._tried_at
        return tried_at is None or time.monotonic() - tried_at >= self.fetch_again_s

    def _begin(self) -> None:
        self._tried_at = time.monotonic()
        self._fetching = asyncio.create_task(self._fetch(), name="contex-issuer-keys")

    async def _fetch(self) -> None:
        try:
            document = await in_daemon_thread(lambda: fetch_keys(self.issuer))
        except FetchFailed as error:
            if str(error) != self._failing:
                self._failing = str(error)
                log.warning(
                    "issuer_keys_not_fetched",
                    issuer=self.issuer.name,
                    error=str(error),
                    has_keys=self.current is not None,
                )
        else:
            self._fetched_at, self._failing = time.monotonic(), ""
            if document != self._set.document:
                self._set = KeySet(usable(document), document)
                log.info("issuer_keys", issuer=self.issuer.name, keys=len(self._set.keys))
        finally:
            self._fetching = None


def usable(document: list[Any]) -> tuple[tuple[Mapping[str, Any], jwt.PyJWK], ...]:
    """The keys of a JWKS that can verify signatures; never one that could make them."""
    found = []
    for jwk in document[:_MOST_KEYS]:
        if not isinstance(jwk, dict) or jwk.get("kty") not in _KINDS:
            continue
        if jwk.get("use", "sig") != "sig" or not isinstance(jwk.get("kid", ""), str):
            continue
        try:
            key = jwt.PyJWK({name: value for name, value in jwk.items() if name != "d"})
        except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError):
            continue
        if jwk["kty"] == "RSA" and key.key.key_size < _RSA_BITS:
            continue
        found.append((jwk, key))
    return tuple(found)


def fetch_keys(issuer: Issuer) -> list[Any]:
    """The JWKs of an issuer, from its file or by HTTP. Blocks.

    Raises:
        FetchFailed: They can't be had.
    """
    if issuer.jwks_file is not None:
        try:
            with issuer.jwks_file.open("rb") as file:
                return _keys_of(file.read(_MOST_BYTES + 1))
        except OSError as error:
            raise FetchFailed(f"{issuer.jwks_file}: {error.strerror or error}") from None
    deadline = time.monotonic() + _FETCH_S
    url = issuer.jwks_url
    if url is None:
        discovered = _object(_get(issuer.issuer.rstrip("/") + _DISCOVERY, deadline))
        if discovered.get("issuer") != issuer.issuer:
            raise FetchFailed("its configuration is of another issuer")
        url = discovered.get("jwks_uri")
        if not isinstance(url, str) or not is_safe_url(url):
            raise FetchFailed("its configuration names no jwks_uri that can be used")
    return _keys_of(_get(url, deadline))


def _keys_of(raw: bytes) -> list[Any]:
    keys = _object(raw).get("keys")
    if not isinstance(keys, list):
        raise FetchFailed("what is there is no JWKS")
    return keys


def _object(raw: bytes) -> dict[str, Any]:
    if len(raw) > _MOST_BYTES:
        raise FetchFailed(f"more than {_MOST_BYTES:,} bytes")
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        raise FetchFailed("what is there is no JSON") from None
    if not isinstance(found, dict):
        raise FetchFailed("what is there is no JSON object")
    return found


class _NoRedirects(HTTPRedirectHandler):
    """One might lead to where anybody can answer."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _get(url: str, deadline: float) -> bytes:
    # What is on this machine is not reached by a proxy.
    handlers: list[Any] = [_NoRedirects()]
    if url.startswith("http:"):
        handlers.append(ProxyHandler({}))
    request = Request(url, headers={"Accept": "application/json"})
    try:
        with build_opener(*handlers).open(request, timeout=_SOCKET_S) as response:
            return _body(response, deadline)
    except HTTPError as error:
        error.close()
        raise FetchFailed(f"{url}: {error}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise FetchFailed(f"{url}: {error}") from None


def _body(response: HTTPResponse, deadline: float) -> bytes:
    body = b""
    while chunk := response.read1(1 << 16):
        body += chunk
        if len(body) > _MOST_BYTES:
            break
        if time.monotonic() > deadline:
            raise TimeoutError(f"not in {_FETCH_S:g} s")
    return body


async def in_daemon_thread(work: Callable[[], T]) -> T:
    """Runs it in a thread that nobody waits for: an end of the process does not."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:
            failure = error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name="contex-fetch", daemon=True).start()
    return await future
