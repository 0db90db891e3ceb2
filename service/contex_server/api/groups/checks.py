"""What is asked of consumer groups, each field against its limit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from contex.v1 import consumer_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from contex_server.api.shared import cursors, fields
from contex_server.groups.consumer import ConsumerSpec, parse_delivery_id
from contex_server.kernel.config import Limits, Settings
from contex_server.kernel.errors import Checks, invalid_field
from contex_server.kernel.model import Sequence
from contex_server.log.groups import Verb

_MESSAGES, _BYTES = 64, 8 << 20
_DEADLINE_MS = 30_000
_ATTEMPTS = 10
_RETRY_MS, _LONGEST_RETRY_MS = 1_000, 300_000
_IDS = 1_000


class Start(NamedTuple):
    """How a consumer begins."""

    agent_id: str
    spec: ConsumerSpec
    held: list[str]
    heartbeat_s: float


class Said(NamedTuple):
    """What a consumer says of some deliveries.

    Attributes:
        upto: Instead of their ids: all that came by the message of this number, or before.
        more: What else is said of them, by the attempt.
    """

    number: int
    delivery_ids: list[str]
    upto: int | None
    verb: Verb
    more: Callable[[int], str]


def start(request: pb.ConsumeRequest, settings: Settings) -> Start:
    """The first message of a consumer."""
    if request.WhichOneof("message") != "start":
        raise invalid_field("start", "must be the first message")
    message, limits = request.start, settings.limits
    with Checks() as check:
        check(fields.project, message.project, "start.project")
        agent_id = check(fields.agent_id, message.agent_id, "start.agent_id")
        name = check(fields.agent_id, message.consumer, "start.consumer")
        messages = message.max_outstanding_messages or _MESSAGES
        field = "start.max_outstanding_messages"
        check(fields.within, messages, 1, limits.consumer_messages, field)
        size_bytes = message.max_outstanding_bytes or _BYTES
        field = "start.max_outstanding_bytes"
        check(fields.within, size_bytes, 1, limits.consumer_bytes, field)
        deadline_ms = check(_deadline_ms, message, limits, "start.ack_deadline") or _DEADLINE_MS
        tries = message.max_attempts or _ATTEMPTS
        check(fields.within, tries, 1, limits.attempts, "start.max_attempts")
        field = "start.held_delivery_ids"
        held = check(_delivery_ids, message.held_delivery_ids, field)
        field, interval_ms = "start.heartbeat_interval_ms", message.heartbeat_interval_ms
        heartbeat_s = check(fields.heartbeat_s, interval_ms, settings, field)
    spec = ConsumerSpec(name, messages, size_bytes, deadline_ms, tries)
    return Start(agent_id, spec, held, heartbeat_s)


def settle(project: str, message: pb.Settle, limits: Limits) -> Said:
    """What has become of deliveries."""
    outcome, upto = message.WhichOneof("outcome"), None
    verb = Verb.ACK
    more: Callable[[int], str] = _nothing
    with Checks() as check:
        ids = check(_delivery_ids, message.delivery_ids, "settle.delivery_ids")
        if message.up_to_cursor:
            field = "settle.up_to_cursor"
            upto = check(cursors.decode_consumed, project, message.up_to_cursor, field)
            if ids:
                check.refuse("settle.delivery_ids", "must be empty with up_to_cursor")
        match outcome:
            case None:
                check.refuse(
                    "settle.outcome", "one of ack, retry, park, skip and give_back is required"
                )
            case "retry":
                verb = Verb.RETRY
                if message.retry.HasField("delay"):
                    field, most = "settle.retry.delay", limits.retry_delay_ms
                    delay = check(duration_ms, message.retry.delay, 0, most, field)
                    more = _always(str(delay))
                else:
                    more = retry_delay
            case "give_back":
                verb = Verb.GIVE_BACK
            case "park":
                verb, reason = Verb.PARK, message.park.reason
                field = "settle.park.reason"
                check(fields.characters, reason, 0, limits.park_reason_chars, field)
                more = _always("C" + reason)
    return Said(message.settle_id, ids, upto, verb, more)


def extend(message: pb.Extend, limits: Limits, spec: ConsumerSpec) -> Said:
    """How much longer claims are to last."""
    with Checks() as check:
        ids = check(_delivery_ids, message.delivery_ids, "extend.delivery_ids")
        until = check(_deadline_ms, message, limits, "extend.ack_deadline") or spec.deadline_ms
    return Said(message.settle_id, ids, None, Verb.EXTEND, _always(str(until)))


def credit(message: pb.Credit, limits: Limits) -> tuple[int, int]:
    """How many deliveries a consumer may have, and how many bytes of them."""
    messages, size_bytes = message.max_outstanding_messages, message.max_outstanding_bytes
    with Checks() as check:
        field = "credit.max_outstanding_messages"
        check(fields.within, messages, 0, limits.consumer_messages, field)
        field = "credit.max_outstanding_bytes"
        check(fields.within, size_bytes, 0, limits.consumer_bytes, field)
    return messages, size_bytes


def parked_ids(texts: Iterable[str], *, at_least: int = 0) -> list[Sequence]:
    """The names of parked deliveries."""
    several = list(texts)
    fields.check_count("parked_ids", len(several), _IDS, at_least=at_least)
    return [fields.sequence(each, f"parked_ids[{i}]") for i, each in enumerate(several)]


def retry_delay(attempt: int) -> str:
    """After how many ms a delivery comes again where the consumer does not say."""
    return str(min(_RETRY_MS << min(attempt - 1, 20), _LONGEST_RETRY_MS))


def duration_ms(length: Duration, low: int, high: int, field: str) -> int:
    """A length of time in whole milliseconds, between two limits."""
    found = length.seconds * 1000 + length.nanos // 1_000_000
    if not (0 <= length.nanos < 1_000_000_000 and low <= found <= high):
        bounds = f"{low / 1000:g} to {high / 1000:g} seconds"
        raise invalid_field(field, f"must be {bounds}, not {found / 1000:g}")
    return found


def _deadline_ms(message: pb.ConsumeStart | pb.Extend, limits: Limits, field: str) -> int | None:
    if not message.HasField("ack_deadline"):
        return None
    return duration_ms(message.ack_deadline, *limits.ack_deadline_ms, field)


def _delivery_ids(texts: Iterable[str], field: str) -> list[str]:
    several = list(texts)
    fields.check_count(field, len(several), _IDS)
    for index, text in enumerate(several):
        try:
            parse_delivery_id(text)
        except ValueError:
            raise invalid_field(f"{field}[{index}]", "must be a delivery_id") from None
    return several


def _nothing(_attempt: int) -> str:
    return ""


def _always(text: str) -> Callable[[int], str]:
    return lambda _attempt: text
