# Generated from _async/calls.py by `make generate`.
"""How the client calls: its channel, its identity, attempts, pages and streams."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from contex.backoff import PROMISED_WINDOW_S, Retry
from contex.channel import check_target, identity_metadata
from contex.credentials import Credentials, Shown, Token
from contex.errors import ContexError, QuotaExceeded, Unauthenticated, Unimplemented
from contex.lazy import server_service_pb2, server_service_pb2_grpc
from contex.tls import Tls, split_target

from .answer_stream import SyncAnswerStream
from .closing import Closeable
from .subscription import Acknowledge, SyncSubscription
from .transport import (
    Channel,
    Connection,
    Metadata,
    Reader,
    StreamCall,
    UnaryMethod,
    open_if_blocking,
    sleep,
    unary,
    was_cut_off,
)

if TYPE_CHECKING:
    from contex.resume import ResumableStream, StreamMessage, StreamRequest

Request = TypeVar("Request")
Response = TypeVar("Response")
T = TypeVar("T")
StreamT = TypeVar("StreamT", bound="_Stream")


class PageRequest(Protocol):
    """Asks for a page."""

    page_token: str


class Page(Protocol):
    """A page of an answer."""

    next_page_token: str


PageRequestT = TypeVar("PageRequestT", bound=PageRequest)
PageT = TypeVar("PageT", bound=Page)


class _Stream(Protocol):
    """A stream that is closed with its client."""

    _reader: Reader[Any]

    def close(self) -> None:
        """Ends it."""


class Calls(Closeable):
    """The base of each service's methods."""

    def __init__(
        self,
        target: str = "127.0.0.1:50051",
        *,
        publisher: str = "",
        timeout: float = 10.0,
        channel: Channel | None = None,
        tls: Tls | None = None,
        api_key: str | None = None,
        api_key_file: str | os.PathLike[str] | None = None,
        token: Token | None = None,
        allow_plaintext_credentials: bool | None = None,
    ) -> None:
        self._publisher = publisher
        self._timeout = timeout
        self._identity = identity_metadata(publisher)
        called, tls = split_target(target, tls)
        is_own = channel is not None  # how it is secured is known to the caller alone
        self._credentials = Credentials(
            target if is_own else check_target(called),
            api_key,
            token,
            api_key_file=api_key_file,
            allow_plaintext=allow_plaintext_credentials,
            encrypted=is_own or tls is not None,
            looks=not is_own,
        )
        self._connection = Connection(target, timeout, channel, tls)
        self._streams: weakref.WeakSet[_Stream] = weakref.WeakSet()
        self._closed = False
        self._window_s: float | None = None

    def close(self) -> None:
        """Ends all streams of this client and closes its channel."""
        self._closed = True
        for stream in () if self._connection.abandoned else list(self._streams):
            stream.close()
        self._connection.close()

    @property
    def _metadata(self) -> Metadata:
        """The metadata of the next call: who calls, and what proves it."""
        return (*self._identity, *self._credentials.metadata())

    def _shown(self) -> Shown:
        """The same for a stream, or a call that may be made again."""
        return Shown(self._credentials, self._identity)

    def _once(
        self,
        method: UnaryMethod[Request, Response],
        request: Request,
        *,
        timeout: float | None = None,
    ) -> Response:
        """Makes a call that gRPC repeats, or that is not repeated.

        Only where a limited rate refused it, which has done nothing, it is made again.
        """
        retry: Retry | None = None
        left = timeout or self._timeout
        while True:
            try:
                return self._unary(method, request, left)
            except QuotaExceeded as error:
                retry = retry or Retry(left, idempotent=False)
                delay = retry.delay_after(error)
            sleep(delay)
            left = retry.attempt_timeout()

    def _unary(
        self, method: UnaryMethod[Request, Response], request: Request, timeout: float
    ) -> Response:
        """Makes a call; once more if it is refused and another key is there by now."""
        began, shown = monotonic(), self._shown()
        try:
            return self._attempt(method, request, timeout, shown)
        except Unauthenticated as error:
            if not shown.is_renewed(error):
                raise
        return self._attempt(method, request, timeout - (monotonic() - began), shown)

    def _attempt(
        self,
        method: UnaryMethod[Request, Response],
        request: Request,
        timeout: float,
        shown: Shown,
    ) -> Response:
        self._check_open()
        try:
            return unary(method, request, timeout, shown.metadata(), self._connection.route)
        except BaseException as error:
            if self._closed and was_cut_off(error):
                raise RuntimeError("the client was closed before the call was answered") from error
            raise

    def _repeated(
        self,
        method: UnaryMethod[Request, Response],
        request: Request,
        retry: Retry | None = None,
    ) -> Response:
        self._check_open()
        retry = retry or Retry(self._timeout)
        if retry.outlasts_window:
            retry.window_s = self._request_window_s()
        while True:
            try:
                return self._unary(method, request, retry.attempt_timeout())
            except ContexError as error:
                delay = retry.delay_after(error)
            sleep(delay)

    def _request_window_s(self) -> float:
        """Seconds for which the server remembers a request_id; it is asked once.

        One that can't be asked has what every server promises.
        """
        if self._window_s is None:
            method = self._connection.stub(server_service_pb2_grpc.ServerServiceStub)
            request = server_service_pb2.GetServerInfoRequest()
            try:
                info = self._once(method.GetServerInfo, request)
                self._window_s = float(info.request_window_seconds)
            except Unimplemented:
                self._window_s = PROMISED_WINDOW_S
            except ContexError:  # out of reach: ask again the next time
                return PROMISED_WINDOW_S
        return self._window_s

    def _pages(
        self, method: UnaryMethod[PageRequestT, PageT], request: PageRequestT
    ) -> Iterator[PageT]:
        """All pages of an answer; `request` asks for the first."""
        while True:
            page = self._once(method, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def _listed(
        self,
        method: Callable[[], UnaryMethod[PageRequestT, PageT]],
        request: PageRequestT,
        decode: Callable[[PageT], Iterable[T]],
    ) -> Iterator[T]:
        """The items of all pages of an answer."""
        for page in self._pages(method(), request):
            for item in decode(page):
                yield item

    def _subscription(
        self,
        method: Callable[[], Callable[..., object]],
        stream: ResumableStream[T],
        *,
        starts_now: bool = False,
        acknowledge: Acknowledge | None = None,
    ) -> SyncSubscription[T]:
        shown = self._shown()
        stream.renew_with(shown.is_renewed)

        def open_call(request: StreamRequest) -> StreamCall[StreamMessage]:
            call = method()(request, metadata=shown.metadata())
            return cast("StreamCall[StreamMessage]", call)

        subscription = self._opened(
            SyncSubscription(open_call, stream, starts_now=starts_now, acknowledge=acknowledge)
        )
        return open_if_blocking(subscription) if starts_now else subscription

    def _answers(
        self,
        open_call: Callable[[Metadata], StreamCall[Response]],
        decode: Callable[[Response], Iterable[T]],
        retry: Callable[[], Retry] | None = None,
    ) -> SyncAnswerStream[T]:
        shown = self._shown()

        return self._opened(SyncAnswerStream[T](open_call, decode, shown, retry))

    def _opened(self, stream: StreamT) -> StreamT:
        """Notes a stream, which is closed with the client."""
        self._check_open()
        stream._reader.route = self._connection.route
        self._streams.add(stream)
        return stream

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the client is closed")
