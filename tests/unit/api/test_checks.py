"""A publish is checked and encoded alike, whether its fields are known from another one or not."""

from __future__ import annotations

import random

import pytest
from contex.v1 import event_pb2
from contex.v1 import event_service_pb2 as pb
from contex_server.api.events import checks
from contex_server.kernel.config import Limits
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.model import DATA_DELETED, DATA_PUBLISHED, SUBJECT, NewEvent, Origin

LIMITS = Limits()


def published(*events: pb.NewEvent, publisher: str = "", limits: Limits = LIMITS) -> list[NewEvent]:
    request = pb.PublishRequest(project="p", events=events, publisher=publisher)
    return checks.publish(request, Origin("me"), limits).events


def some_event(chosen: random.Random) -> pb.NewEvent:
    event = pb.NewEvent(
        data_key=f"key{chosen.randrange(3)}",
        event_type=chosen.choice(("", "", "order.paid")),
        payload=b"x" * chosen.choice((0, 1, 127, 128, 2_047, 2_048, 70_000)),
        content_type=chosen.choice(("", "text/plain")),
        description=chosen.choice((None, "", "words", "ä" * 300)),
        metadata=chosen.choice(({}, {}, {"a": "b"})),
    )
    if event.event_type and chosen.random() < 0.5:
        event.data_key = ""
    if event.data_key and chosen.random() < 0.1:
        event.expected_revision = 3
    elif event.data_key and chosen.random() < 0.1:
        event.valid_for.seconds = 60
    elif chosen.random() < 0.1 and event.data_key:
        event.tombstone = True
        for name in ("payload", "content_type", "event_type"):
            event.ClearField(name)
    return event


def test_bodies_are_what_protobuf_writes() -> None:
    chosen = random.Random(3)
    for _ in range(600):
        event = some_event(chosen)
        publisher = chosen.choice(("", "bob"))
        (new,) = published(event, publisher=publisher)
        kind = event.event_type or (DATA_DELETED if event.tombstone else DATA_PUBLISHED)
        body = event_pb2.Event(
            event_type=kind,
            data_key=event.data_key,
            payload=event.payload,
            content_type=event.content_type,
            description=event.description,
            publisher=publisher or "me",
            metadata=event.metadata,
        )
        assert new.body == body.SerializeToString()
        assert (new.data_key, new.event_type, new.payload) == (event.data_key, kind, event.payload)
        assert (new.content_type, new.description) == (event.content_type, event.description)
        carries = bool(event.data_key and not event.tombstone)
        assert new.carries == (carries and not event.HasField("description"))
        assert new.expected_revision == (3 if event.HasField("expected_revision") else None)
        assert new.validity == ("+60000" if event.HasField("valid_for") else "")


def test_what_is_known_is_refused_under_lower_limits() -> None:
    event = pb.NewEvent(data_key="k", description="x" * 100, content_type="text/" + "x" * 60)
    published(event)
    published(event)
    for name in ("description_bytes", "content_type_chars"):
        with pytest.raises(ContexError) as refused:
            published(event, limits=Limits(**{name: 50}))
        assert refused.value.reason is Reason.INVALID_FIELD


def test_a_payload_of_known_fields_may_be_too_large() -> None:
    limits = Limits(payload_bytes=100)
    event = pb.NewEvent(data_key="k", payload=b"x" * 100)
    published(event, limits=limits)
    event.payload += b"x"
    with pytest.raises(ContexError) as refused:
        published(event, limits=limits)
    assert refused.value.reason is Reason.PAYLOAD_TOO_LARGE
    assert refused.value.field == "events[0].payload"


def test_nothing_of_persons_is_remembered() -> None:
    text = "known of somebody"
    published(pb.NewEvent(data_key="k", description=text, metadata={SUBJECT: "ann"}))
    known = checks._known_under(LIMITS)
    assert known.get(("k", "", "", text, ("me", ""))) is None
    published(pb.NewEvent(data_key="k", description=text))
    assert known.get(("k", "", "", text, ("me", ""))) is not None


def test_what_is_refused_is_not_remembered() -> None:
    for _ in range(2):
        with pytest.raises(ContexError):
            published(pb.NewEvent(data_key=" k"))
