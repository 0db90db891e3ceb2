# Generated from _async/delivery_stream.py by `make generate`.
"""What a consumer gets, and what it says of it; `consuming.py` keeps the state."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Self

from contex.errors import ClaimLost, ContexError
from contex.lazy import events, wire

from .closing import Closeable
from .transport import (
    Background,
    Condition,
    Event,
    Mutex,
    Reader,
    StreamCall,
    happens,
    in_parallel,
    sleep,
)

if TYPE_CHECKING:
    from contex.agents import Blocked, Missed
    from contex.consuming import Claim, Consuming, Saying
    from contex.events import Event as ContexEvent
    from contex.events import Match, MatchedEvent, MatchKind
    from contex.v1.consumer_pb2 import ConsumeRequest, ConsumeResponse

log = logging.getLogger("contex")

_LEAVING_S = 5.0
"""How long leaving waits for answers."""
_GONE_S = 0.5
"""The same where there is no server, and nothing to be said."""
# What the server takes; it ends the stream of whoever says anything else.
_MAX_DELAY_S = 7 * 24 * 3_600
_MAX_CLAIM_S = 3_600
_MAX_REASON = 1_000
_GIVE_WAY_S = 0.01
"""How often work in the background gets its turn at the least."""


class SyncClaimedDelivery:
    """A delivery that this consumer has, and nobody else, until it is settled.

    Say what has become of it by one of `ack`, `nack`, `park` and `skip`, which wait for the
    server's answer. In a `with` it is acknowledged when the block ends well, and comes again
    when it raises; unless something else was said.
    """

    __slots__ = ("_claim", "_stream", "matched")

    def __init__(self, stream: SyncDeliveryStream, claim: Claim) -> None:
        self._stream = stream
        self._claim = claim
        self.matched: MatchedEvent = events.matched_event(claim.message.matched)
        """The event and why it is delivered, as `listen` has it."""

    @property
    def event(self) -> ContexEvent:
        """The event."""
        return self.matched.event

    @property
    def matches(self) -> tuple[Match, ...]:
        """The needs that it meets."""
        return self.matched.matches

    @property
    def kind(self) -> MatchKind | None:
        """What it says of its datum."""
        return self.matched.kind

    @property
    def attempt(self) -> int:
        """1 the first time that a consumer gets it."""
        return self._claim.message.attempt

    @property
    def redriven(self) -> bool:
        """Whether it was parked and sent on its way again."""
        return self._claim.message.redriven

    @property
    def delivery_id(self) -> str:
        """Names the delivery and its attempt."""
        return self._claim.message.delivery_id

    @property
    def settled(self) -> bool:
        """Whether something was said of it."""
        return self._claim.saying is not None

    @property
    def lost(self) -> bool:
        """Whether somebody else may have it by now: stop working on it."""
        claim = self._claim
        return claim.lost or (claim.saying is None and not self._stream._state.holds(claim))

    def ack(self) -> None:
        """It is done.

        Raises:
            ClaimLost: Somebody else may have it; nothing was changed, as a rule.
        """
        self._stream._settle(self._claim, "ack")

    def nack(self, delay: float | timedelta | None = None) -> None:
        """It is to come again, to any consumer.

        Args:
            delay: Not before so many seconds, up to 7 days. By default 1 s, doubled with each
                attempt, at most 5 minutes. Later deliveries of the same data key wait.

        Raises:
            ClaimLost: Somebody else may have it; nothing was changed, as a rule.
        """
        self._stream._settle(self._claim, "retry", _seconds(delay, "delay", 0, _MAX_DELAY_S))

    def park(self, reason: str = "") -> None:
        """It is put aside for a person to look at; see `parked`. Later ones of its key go on.

        Args:
            reason: Why, up to 1,000 characters.

        Raises:
            ClaimLost: Somebody else may have it; nothing was changed, as a rule.
            ResourceExhausted: Nothing more can be parked; it is still this consumer's.
        """
        if not isinstance(reason, str):
            raise TypeError(f"reason: expected str, not {type(reason).__name__}")
        wire.utf8(reason, "reason")
        if len(reason) > _MAX_REASON:
            raise ValueError(f"reason: at most {_MAX_REASON:,} characters, not {len(reason):,}")
        self._stream._settle(self._claim, "park", reason)

    def skip(self) -> None:
        """It need not be done.

        Raises:
            ClaimLost: Somebody else may have it; nothing was changed, as a rule.
        """
        self._stream._settle(self._claim, "skip")

    def extend(self, seconds: float | timedelta | None = None) -> None:
        """It is to stay this consumer's for so long from now on, a second to an hour.

        Claims are extended by themselves up to `max_extension`; this goes on from there.

        Args:
            seconds: How long; by default the stream's `ack_deadline`.

        Raises:
            ClaimLost: Somebody else may have it.
        """
        self._stream._settle(self._claim, "extend", _seconds(seconds, "seconds", 1, _MAX_CLAIM_S))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        error = raised[1]
        if isinstance(error, BaseException):
            self._stream._give_up(self._claim, error)
        elif not self.settled:
            self.ack()


class SyncDeliveryStream(Closeable):
    """What one consumer of an agent gets: iterate over it in a `with`, or let it `run`.

    What was handed out, and what waits to be, stays this consumer's: claims are extended in the
    background. When the connection breaks, the server ends the stream, or nothing arrives for three
    heartbeat intervals, it reconnects under the same name (after a jittered wait of at most 5 s, or
    as long as the server asks for), goes on with what it has, and says again what was not answered.
    It waits without limit for a server that can't be reached. What a new connection would not mend
    is raised, for example `NotFound` or `ConsumerReplaced`.

    With `auto_ack`, going on to the next delivery acknowledges the one before, unless something was
    said of it, and so does leaving the `with`; leaving it by an exception lets it come again.
    These answers are not waited for: a claim that was lost is logged, and counted in `lost_count`.

    Leaving the `with` gives back what is not settled.
    """

    def __init__(
        self,
        open_call: Callable[[Iterator[ConsumeRequest]], StreamCall[ConsumeResponse]],
        state: Consuming,
        consumer: str,
        *,
        auto_ack: bool = True,
    ) -> None:
        self.consumer = consumer
        """The consumer's name."""
        self._open_call = open_call
        self._state = state
        self._auto_ack = auto_ack
        self._last: Claim | None = None
        """What was handed out last, with `auto_ack`."""
        self._reader: Reader[ConsumeResponse] = Reader(state.silence_limit_s)
        self._lock = Mutex()
        self._arrived = Condition(self._lock)
        self._outgoing = Condition(self._lock)
        self._ended = Event()
        self._work: list[Background] = []
        self._call_number = 0
        self._gave_way = 0.0

    @property
    def idle(self) -> bool:
        """Whether there is nothing to be had, and nothing is held."""
        return self._state.idle

    @property
    def missed(self) -> Missed:
        """What consumers have missed since the stream began, as far as it was told."""
        return self._state.missed

    @property
    def blocked(self) -> Blocked | None:
        """What holds everything up, if so many deliveries are outstanding that no further come."""
        return self._state.blocked

    @property
    def lost_count(self) -> int:
        """Claims that were lost."""
        return self._state.lost_count

    @property
    def reconnects(self) -> int:
        """How often the connection was lost."""
        return self._state.reconnects

    def run(
        self, handler: Callable[[SyncClaimedDelivery], object], *, concurrency: int = 1
    ) -> None:
        """Calls a handler for each delivery, until the stream is drained or ends.

        What it leaves unsettled is acknowledged. If it raises, that is logged and the delivery
        comes again.

        Args:
            handler: What is to be done with a delivery.
            concurrency: How many are dealt with at a time; no two of the same data key.
        """
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}")

        def work() -> None:
            while (claim := self._take()) is not None:
                self._handle(handler, claim)

        in_parallel(work, concurrency, self.drain)

    def drain(self) -> None:
        """Gets nothing more: the iteration ends, and what was handed out can still be settled."""
        with self._lock:
            self._state.drain()
            self._arrived.notify_all()
            self._outgoing.notify_all()

    def close(self) -> None:
        """Gives back what is not settled, and ends the stream once that is answered."""
        try:
            with self._lock:
                self._state.leave()
                self._arrived.notify_all()
                self._outgoing.notify_all()
            if self._work:
                happens(self._ended, _LEAVING_S if self._state.has_business else _GONE_S)
        finally:
            self._reader.close()
            for background in self._work:
                background.stop()
            self._end()

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(self, *raised: object) -> None:
        error = raised[1]
        claim, self._last = self._last, None
        try:
            if claim is not None and isinstance(error, BaseException):
                self._give_up(claim, error)
            elif claim is not None:
                self._acknowledge(claim)
        finally:
            self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> SyncClaimedDelivery:
        claim, self._last = self._last, None
        if claim is not None:
            self._acknowledge(claim)
        claim = self._take()
        if claim is None:
            raise StopIteration
        if self._auto_ack:
            self._last = claim
        return SyncClaimedDelivery(self, claim)

    def _take(self) -> Claim | None:
        """The next delivery; None at the end."""
        self._begin()
        # What waits in the client is handed out without a wait, and who handles it may never wait.
        now = monotonic()
        if now - self._gave_way > _GIVE_WAY_S:
            self._gave_way = now
            sleep(0)
        with self._arrived:
            while True:
                self._arrived.wait_for(self._has_news)
                claim = self._state.take()
                if claim is not None or self._has_news():
                    return claim

    def _has_news(self) -> bool:
        return self._state.has_news

    def _handle(self, handler: Callable[[SyncClaimedDelivery], object], claim: Claim) -> None:
        delivery = SyncClaimedDelivery(self, claim)
        try:
            handler(delivery)
        except Exception as error:
            event = delivery.event
            log.exception(
                "delivery of %s, attempt %d: the handler failed",
                event.data_key or event.sequence,
                delivery.attempt,
            )
            self._give_up(claim, error)
        else:
            self._acknowledge(claim)

    def _settle(self, claim: Claim, kind: str, argument: float | str | None = None) -> None:
        """Says what has become of a delivery, and waits for the answer."""
        answered = Event()
        with self._lock:
            saying = self._state.say(claim, kind, argument, answered)
            self._outgoing.notify_all()
        happens(answered, None)
        if saying.error is not None:
            raise saying.error

    def _acknowledge(self, claim: Claim) -> None:
        """Says that a delivery is done, unless something was said of it; waits for nothing."""
        with self._lock:
            if claim.saying is None:
                try:
                    self._state.say(claim, "ack")
                except ClaimLost as error:
                    log.warning("%s; it was acknowledged in vain", error.message)
                else:
                    self._outgoing.notify_all()

    def _give_up(self, claim: Claim, error: BaseException) -> None:
        """Lets a delivery come again, unless something was said of it; waits for nothing.

        Later, if its handling failed; at once, if that was interrupted.
        """
        with self._lock:
            if claim.saying is None and not claim.lost and not self._state.over:
                failed = isinstance(error, Exception)
                self._state.say(claim, "retry", None if failed else 0.0)
                self._outgoing.notify_all()

    def _begin(self) -> None:
        """Begins to work in the background, once."""
        if not self._work and not self._reader.closed:
            self._work = [Background(self._receive), Background(self._tick)]

    def _receive(self) -> None:
        """Receives messages, over as many calls as it takes."""
        failure: Exception | None = None
        try:
            self._receive_all()
        except Exception as error:
            failure = error  # raised where the next delivery is waited for
        finally:
            self._reader.close()
            self._end(failure)

    def _receive_all(self) -> None:
        state, reader = self._state, self._reader
        while not reader.closed:
            delay: float | None
            try:
                message = reader.read(self._open)
            except TimeoutError:
                delay = state.on_silence()
            except ContexError as error:
                delay = state.on_error(error)
            else:
                if reader.closed:
                    return
                if message is not None:
                    self._on_message(message)
                    continue
                delay = state.on_end()
            self._end_requests()
            if delay is None:
                return
            reader.pause(delay)

    def _on_message(self, message: ConsumeResponse) -> None:
        with self._lock:
            unheard = self._state.on_message(message)
            if self._state.has_news:
                self._arrived.notify_all()
            if self._state.has_requests:
                self._outgoing.notify_all()
        for saying in unheard:
            _warn(saying)

    def _tick(self) -> None:
        """Extends what is held."""
        while not self._reader.closed:
            self._reader.pause(self._state.tick_s)
            with self._lock:
                if self._state.tick():
                    self._outgoing.notify_all()

    def _open(self) -> StreamCall[ConsumeResponse]:
        self._call_number += 1
        return self._open_call(self._requests(self._call_number))

    def _requests(self, call_number: int) -> Iterator[ConsumeRequest]:
        """What a call begins with, then what is said, until this was left."""

        def is_dropped() -> bool:
            return call_number != self._call_number

        def has_work() -> bool:
            return is_dropped() or self._state.has_requests

        with self._lock:
            requests = [] if is_dropped() else self._state.begin()
        while requests:
            for request in requests:
                yield request
            with self._outgoing:
                self._outgoing.wait_for(has_work)
                requests = [] if is_dropped() else self._state.next_requests()

    def _end_requests(self) -> None:
        """Ends the requests of the current call."""
        with self._lock:
            self._call_number += 1
            self._outgoing.notify_all()

    def _end(self, failure: Exception | None = None) -> None:
        with self._lock:
            self._call_number += 1
            self._state.end(failure)
            self._ended.set()
            self._arrived.notify_all()
            self._outgoing.notify_all()


def _seconds(length: float | timedelta | None, name: str, least: int, most: int) -> float | None:
    if length is None:
        return None
    seconds = wire.duration(length, name).ToTimedelta().total_seconds()
    if not least <= seconds <= most:
        raise ValueError(f"{name}: must be {least} to {most} seconds, not {seconds:g}")
    return seconds


def _warn(saying: Saying) -> None:
    assert saying.error is not None
    log.warning("%s; it was settled in vain (%s)", saying.error.message, saying.kind)
