# Generated from _async/events.py by `make generate`.
"""Methods of `contex.v1.EventService`: publishing and reading events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from contex.backoff import Backoff, Retry
from contex.errors import ContexError
from contex.lazy import event_pb2, event_service_pb2, event_service_pb2_grpc, publish_window, wire
from contex.lazy import events as values
from contex.resume import ResumableStream

from .calls import Calls
from .publish_stream import SyncPublishStream
from .shared_stream import IDLE_S, MAX_BYTES, SharedStream
from .subscription import SyncSubscription
from .transport import Channel, Source, StreamCall, duplex, sleep

if TYPE_CHECKING:
    from contex.events import Durability, Event, KeyState, NewEvent, Receipt
    from contex.wire import At, Metadata


class EventService(Calls):
    """See `Client`."""

    @property
    def _events(self) -> event_service_pb2_grpc.EventServiceStub:
        return self._connection.stub(event_service_pb2_grpc.EventServiceStub)

    def publish(
        self,
        project: str,
        data_key: str,
        payload: object,
        *,
        description: str | None = None,
        event_type: str = "",
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        expected_revision: int | None = None,
        expected_state: KeyState | None = None,
        valid_for: float | timedelta | None = None,
        valid_until: datetime | None = None,
        durability: Durability | None = None,
        request_id: str | None = None,
    ) -> Receipt:
        """Publishes one event.

        The call is repeated with the same request_id until the server has answered or the
        client's timeout is over, so the event is published once even if an answer was lost.

        Args:
            data_key: Name of the datum.
            payload: Bytes, text, or anything with a JSON form, `datetime`, `UUID`, `Decimal`,
                dataclasses and pydantic models included: see `contex.payload.encode`.
            description: What the datum is, in plain words; the best way to have it found. None
                keeps the datum's last one, "" removes it.
            event_type: A type of your own; empty for `data_published`.
            content_type: Media type; by default the one that fits the payload's Python type.
            metadata: Free annotations.
            expected_revision: Refuse unless the key is at this revision; 0: it never had an event.
            expected_state: Refuse unless the key is absent (it never had an event), present or
                deleted; a name in lower case will do.
            valid_for: How long the fact is valid after it was appended: seconds, or a `timedelta`,
                from one second to ten years. It then expires: the service publishes
                `data_expired`, and the datum is no longer part of the state. None lets it last,
                also where the datum's last event was valid for some time.
            valid_until: Until when it is valid instead: a `datetime` with a time zone, to come.
            durability: What the receipt must guarantee; by default that the event is on disk.
            request_id: Idempotency key; by default a fresh one. Without one (empty), the call is
                not repeated if it is unknown whether the event was published.

        Raises:
            RevisionConflict: The key is at another revision.
            InvalidArgument: The event is not acceptable.
            Unavailable: The server could not be reached in time.
            ValueError: The payload has no JSON form; the message says which part. Or there are both
                `valid_for` and `valid_until`.
            TypeError: An argument has another type than it should; the message names it.
        """
        event = values.NewEvent(
            data_key=data_key,
            payload=payload,
            description=description,
            event_type=event_type,
            content_type=content_type,
            metadata=metadata or {},
            expected_revision=expected_revision,
            expected_state=expected_state,
            valid_for=valid_for,
            valid_until=valid_until,
        )
        batch = self.publish_batch(project, [event], durability=durability, request_id=request_id)
        return batch[0]

    def delete(
        self,
        project: str,
        data_key: str,
        *,
        expected_revision: int | None = None,
        expected_state: KeyState | None = None,
        durability: Durability | None = None,
        request_id: str | None = None,
    ) -> Receipt:
        """Deletes a datum. Its history stays. Arguments and errors as in `publish`."""
        event = values.NewEvent(
            data_key,
            tombstone=True,
            expected_revision=expected_revision,
            expected_state=expected_state,
        )
        batch = self.publish_batch(project, [event], durability=durability, request_id=request_id)
        return batch[0]

    def publish_batch(
        self,
        project: str,
        events: Sequence[NewEvent],
        *,
        durability: Durability | None = None,
        request_id: str | None = None,
    ) -> list[Receipt]:
        """Publishes up to 1,000 events together: all of them or none.

        Arguments and errors as in `publish`.

        Returns:
            One receipt for each event, in order.
        """
        request = wire.message(
            event_service_pb2.PublishRequest,
            project=project,
            events=values.to_new_events(events),
            request_id=wire.new_request_id() if request_id is None else request_id,
            durability=values.to_durability(durability),
            publisher=self._publisher,
        )
        return list(values.receipts(self._publish(request)))

    def _publish(
        self, request: event_service_pb2.PublishRequest
    ) -> event_service_pb2.PublishResponse:
        self._check_open()
        retry = Retry(self._timeout, idempotent=bool(request.request_id))
        stream = self._connection.stub(_Streams).get(request, self._shared_stream)
        if stream is not None:
            try:
                return stream.publish(request, retry.attempt_timeout())
            except ContexError as error:
                delay = retry.delay_after(error)
            sleep(delay)
        return self._repeated(self._events.Publish, request, retry)

    def _shared_stream(self) -> SharedStream:
        def open_call(
            requests: Iterator[event_service_pb2.PublishStreamRequest],
        ) -> StreamCall[event_service_pb2.PublishStreamResponse]:
            return duplex(self._events.PublishStream, requests, self._metadata)

        return self._opened(SharedStream(open_call))

    def publish_stream(
        self,
        project: str,
        batches: Source[Sequence[NewEvent]],
        *,
        durability: Durability | None = None,
        window: int = 16,
    ) -> SyncPublishStream:
        """Publishes batch after batch over one stream, with many in flight.

        Args:
            batches: The batches, each of up to 1,000 events.
            durability: What the receipts must guarantee; by default that the events are on disk.
            window: Maximum number of unanswered batches; the server reads 16 ahead.

        Returns:
            A context manager that yields a `BatchResult` for each batch, in order.
        """

        def make_request(batch: Sequence[NewEvent]) -> event_service_pb2.PublishStreamRequest:
            publish = wire.message(
                event_service_pb2.PublishRequest,
                project=project,
                events=values.to_new_events(batch),
                request_id=wire.new_request_id(),
                durability=values.to_durability(durability),
                publisher=self._publisher,
            )
            return event_service_pb2.PublishStreamRequest(publish=publish)

        shown = self._shown()
        stream = SyncPublishStream(
            lambda requests: duplex(self._events.PublishStream, requests, shown.metadata()),
            batches,
            make_request,
            publish_window.PublishWindow(window, backoff=Backoff(is_renewed=shown.is_renewed)),
            self._timeout,
            self._request_window_s,
        )
        return self._opened(stream)

    def get_event(self, project: str, sequence: str) -> Event:
        """Returns one event.

        Raises:
            NotFound: No event has this sequence.
        """
        request = wire.message(
            event_service_pb2.GetEventRequest, project=project, sequence=sequence
        )
        return values.event((self._once(self._events.GetEvent, request)).event)

    def list_events(
        self,
        project: str,
        *,
        since: At | None = None,
        until: At | None = None,
        event_types: Iterable[str] = (),
        data_keys: Iterable[str] = (),
        publishers: Iterable[str] = (),
        event_type_prefixes: Iterable[str] = (),
        metadata: Metadata = (),
        exclude_service_events: bool = False,
        backwards: bool = False,
        page_size: int = 100,
    ) -> Iterator[Event]:
        """Iterates over a range of events, fetching page after page.

        Args:
            since: Lower end: after this sequence, or from this time on. By default the beginning.
            until: Upper end, included: a sequence or a time. By default the end.
            event_types: Only these types.
            data_keys: Only data keys that match one of these globs.
            publishers: Only events of these publishers.
            event_type_prefixes: Only types that begin with one of these, or are in `event_types`.
            metadata: Only events whose metadata have all of these entries.
            exclude_service_events: Without what the service writes about itself, such as
                registrations.
            backwards: Newest first.
            page_size: Events per call, 1 to 1,000.

        Raises:
            SequenceTrimmed: The lower end is older than what can still be read.
        """
        request = wire.message(
            event_service_pb2.ListEventsRequest,
            project=project,
            since=wire.position(since, "since"),
            until=wire.position(until, "until"),
            filter=wire.event_filter(
                event_types,
                data_keys,
                publishers,
                event_type_prefixes,
                metadata,
                exclude_service_events,
            ),
            order=wire.order(backwards),
            page_size=page_size,
        )
        return self._listed(
            lambda: self._events.ListEvents, request, lambda page: map(values.event, page.events)
        )

    def replay(
        self,
        project: str,
        *,
        since: At | None = None,
        until: At | None = None,
        event_types: Iterable[str] = (),
        data_keys: Iterable[str] = (),
        publishers: Iterable[str] = (),
        event_type_prefixes: Iterable[str] = (),
        metadata: Metadata = (),
        exclude_service_events: bool = False,
        backwards: bool = False,
        speed: float | None = None,
        max_pause: float | timedelta | None = None,
        reconnect: bool = True,
    ) -> SyncSubscription[Event]:
        """Streams a range of events as fast as they are consumed, or at a pace, then ends.

        Other arguments and errors as in `list_events`; `reconnect` as in `subscribe`.

        Args:
            speed: The pace: 1 is that at which the events were published, 2 twice as fast; more
                than 0, at most 1,000,000. None: as fast as they are consumed. The first event comes
                at once, also after a reconnect; any other follows the one before it that passed the
                filter. What you hold back for more than a second is not made up for.
            max_pause: The longest pause between two events: seconds or a `timedelta`, from a
                millisecond to an hour; by default 10 seconds. Only with a speed.
        """
        request = wire.message(
            event_service_pb2.ReplayRequest,
            project=project,
            since=wire.position(since, "since"),
            until=wire.position(until, "until"),
            filter=wire.event_filter(
                event_types,
                data_keys,
                publishers,
                event_type_prefixes,
                metadata,
                exclude_service_events,
            ),
            order=wire.order(backwards),
            speed=speed,
            max_pause_ms=0 if max_pause is None else wire.milliseconds(max_pause, "max_pause"),
        )
        stream = ResumableStream(request, values.event, reconnect=reconnect, ends=True)
        return self._subscription(lambda: self._events.Replay, stream)

    def subscribe(
        self,
        project: str,
        *,
        start: Literal["beginning", "end"] | None = None,
        after_sequence: str | None = None,
        from_time: datetime | None = None,
        cursor: str | None = None,
        event_types: Iterable[str] = (),
        data_keys: Iterable[str] = (),
        publishers: Iterable[str] = (),
        event_type_prefixes: Iterable[str] = (),
        metadata: Metadata = (),
        exclude_service_events: bool = False,
        heartbeat_interval_ms: int = 0,
        reconnect: bool = True,
    ) -> SyncSubscription[Event]:
        """Streams all events from a start position on, without end.

        At most one start position may be given; by default it is the beginning.

        Args:
            start: `"beginning"`, or `"end"` for new events only: those that are published after
                the subscription is open (see `Subscription`).
            after_sequence: Start after this event; `"0"` is the beginning.
            from_time: Start at the first event of this instant or later.
            cursor: Start after the position of this cursor, to resume an earlier stream.
            event_types: Only these types.
            data_keys: Only data keys that match one of these globs.
            publishers: Only events of these publishers.
            event_type_prefixes: Only types that begin with one of these, or are in `event_types`.
            metadata: Only events whose metadata have all of these entries.
            exclude_service_events: Without what the service writes about itself, such as
                registrations.
            heartbeat_interval_ms: After this long without an event the server sends a sign of
                life, 100 to 60,000 ms; 0 means 15,000. Three missing ones break the connection.
            reconnect: Whether to mend a broken connection; if not, its error is raised.

        Raises:
            SequenceTrimmed: Once it is open: the position can't be read any more.
            ValueError: A time has no time zone, or there are several start positions.
        """
        start_position = wire.at_most_one(
            edge=wire.edge(start),
            after_sequence=after_sequence,
            from_time=None if from_time is None else wire.timestamp(from_time, "from_time"),
            cursor=cursor,
        )
        request = wire.message(
            event_service_pb2.SubscribeRequest,
            **start_position,
            project=project,
            filter=wire.event_filter(
                event_types,
                data_keys,
                publishers,
                event_type_prefixes,
                metadata,
                exclude_service_events,
            ),
            heartbeat_interval_ms=heartbeat_interval_ms,
        )
        stream = ResumableStream(request, values.event, reconnect=reconnect)
        return self._subscription(lambda: self._events.Subscribe, stream, starts_now=start == "end")


class _Streams:
    """The streams that the publishes of a client share: one for each durability, as the log keeps
    the order only of publishes of the same."""

    def __init__(self, channel: Channel) -> None:
        self._open: dict[int, SharedStream] = {}
        self._last = -IDLE_S

    def get(
        self, request: event_service_pb2.PublishRequest, make: Callable[[], SharedStream]
    ) -> SharedStream | None:
        """The stream for a publish; None if it goes by a call of its own.

        So does the first one after a pause: a program that makes one publish needs no stream. And
        one that waits for a replica, perhaps for seconds: others would wait behind it.
        """
        before, self._last = self._last, time.monotonic()
        if not request.request_id or request.ByteSize() > MAX_BYTES:
            return None
        if request.durability == event_pb2.DURABILITY_REPLICATED:
            return None
        stream = self._open.get(request.durability)
        if stream is None or stream.ended:
            if self._last > before + IDLE_S:
                return None
            stream = self._open[request.durability] = make()
        return stream
