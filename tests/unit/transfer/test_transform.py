"""What an import makes of an event."""

from __future__ import annotations

from contex.v1 import event_pb2
from contex_server.kernel import event_codec
from contex_server.kernel.config import Limits
from contex_server.kernel.model import BEGINNING, END_OF_TIME, Entry, EventFilter
from contex_server.log.transfer import Restored
from contex_server.transfer.redaction import KeyMapping, Redaction, RedactionAction
from contex_server.transfer.request import ImportMode, ImportReport, ImportRequest
from contex_server.transfer.transform import EventTransform

ALL = EventFilter()


def request(
    mode: ImportMode = ImportMode.EXACT,
    mappings: tuple[KeyMapping, ...] = (),
    redactions: tuple[Redaction, ...] = (),
) -> ImportRequest:
    return ImportRequest(
        "p", mode, None, ALL, BEGINNING, END_OF_TIME, False, mappings, redactions, ""
    )


def entry(sequence: str, revision: int, previous: str = "", key: str = "a/1") -> Entry:
    message = event_pb2.Event(
        event_type="data_published",
        data_key=key,
        payload=b'{"name":"x","n":1}',
        revision=revision,
        previous_sequence=previous,
        text_digest=b"0123456789abcdef",
        metadata={"b": "1", "a": "2"},
    )
    return Entry(sequence.encode(), message.SerializeToString())


def apply(transform: EventTransform, entry: Entry, *, mark: bool = False) -> Restored:
    restored = transform.apply(entry, event_codec.decode(entry), mark=mark)
    # What is said of an event is what its bytes say.
    made = Entry(restored.id, restored.body)
    assert restored == Restored.of(made, event_codec.links(made))
    return restored


def test_an_event_that_nothing_changes_keeps_its_bytes() -> None:
    transform = EventTransform(request(), ImportReport(), b"salt", Limits())
    first, second = entry("1-0", 1), entry("2-0", 2, "1-0")
    assert apply(transform, first).body == first.body
    assert apply(transform, second).body == second.body


def test_an_event_is_linked_to_the_one_before_it_that_is_imported() -> None:
    transform = EventTransform(request(), ImportReport(), b"salt", Limits())
    apply(transform, entry("1-0", 1))
    later = event_codec.decode(Entry(*apply(transform, entry("3-0", 3, "2-0"))[:2]))
    assert (later.revision, str(later.previous_sequence)) == (3, "1-0")


def test_keys_are_renamed_and_renumbered_and_values_redacted() -> None:
    report = ImportReport()
    remove = Redaction(EventFilter(data_keys=frozenset({"a/*"})), ("name",), RedactionAction.REMOVE)
    transform = EventTransform(
        request(mappings=(KeyMapping("a/", "b/"),), redactions=(remove,)), report, b"s", Limits()
    )
    records = [
        event_codec.decode(Entry(*apply(transform, each)[:2]))
        for each in (entry("1-0", 7, "0-5"), entry("2-0", 9, "1-5"))
    ]
    assert [(r.data_key, r.revision, r.payload) for r in records] == [
        ("b/1", 1, b'{"n":1}'),
        ("b/1", 2, b'{"n":1}'),
    ]
    assert str(records[1].previous_sequence) == "1-0"
    assert all(r.text_digest != b"0123456789abcdef" for r in records)
    assert (report.remapped, report.redacted) == (2, 2)


def test_a_replayed_event_says_where_it_comes_from() -> None:
    transform = EventTransform(request(ImportMode.REPLAY), ImportReport(), b"salt", Limits())
    marked = event_codec.decode(Entry(*apply(transform, entry("1000-3", 5), mark=True)[:2]))
    assert marked.metadata["original_sequence"] == "1000-3"
    assert marked.metadata["original_time"].startswith("1970-01-01T00:00:01")
    assert (marked.revision, marked.previous_sequence) == (1, None)
