"""StateService over the wire: moments, errors, bounds, and what the random histories leave out."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from contex.v1 import event_pb2, state_service_pb2
from contex.v1.state_service_pb2 import (
    DiffStatesRequest,
    GetBlameRequest,
    GetHistoryRequest,
    GetRevisionRequest,
    GetStateRequest,
    StreamStateRequest,
)

from tests.integration.support import DEADLINE_S, Api, P, after, at_ms, event, ms, own, refusal

MIB = 1024 * 1024


async def state(api: Api, **fields: Any) -> Any:
    request = GetStateRequest(project=P, **fields)
    return await api.states.GetState(request, timeout=DEADLINE_S)


async def diff(api: Api, **fields: Any) -> Any:
    request = DiffStatesRequest(project=P, **fields)
    return await api.states.DiffStates(request, timeout=DEADLINE_S)


async def history(api: Api, key: str = "k", **fields: Any) -> Any:
    request = GetHistoryRequest(project=P, data_key=key, **fields)
    return await api.states.GetHistory(request, timeout=DEADLINE_S)


async def revision(api: Api, number: int, key: str = "k") -> Any:
    request = GetRevisionRequest(project=P, data_key=key, revision=number)
    return await api.states.GetRevision(request, timeout=DEADLINE_S)


async def blame(api: Api, key: str = "k", **fields: Any) -> Any:
    request = GetBlameRequest(project=P, data_key=key, **fields)
    return await api.states.GetBlame(request, timeout=DEADLINE_S)


async def streamed(api: Api, **fields: Any) -> list[Any]:
    request = StreamStateRequest(project=P, **fields)
    return [message async for message in api.states.StreamState(request, timeout=DEADLINE_S)]


def keys(answer: Any) -> list[str]:
    return [datum.data_key for datum in answer.data]


# -- moments -------------------------------------------------------------------------


async def test_before_the_first_event_the_state_is_empty(api: Api) -> None:
    (first,) = await api.publish(event("k"))
    for position in (after("0"), at_ms(ms(first) - 1), event_pb2.Position(unix_ms=0)):
        then = await state(api, as_of=position)
        assert (then.data_count, then.as_of.sequence) == (0, "0-0")
    assert (await state(api, as_of=at_ms(ms(first) - 1))).as_of.time.ToMilliseconds() == (
        ms(first) - 1
    )


async def test_the_answer_says_which_moment_was_meant(api: Api) -> None:
    first, second = [(await api.publish(event("k")))[0] for _ in range(2)]
    now = await state(api)
    assert now.as_of.sequence == second
    assert now.as_of.time.ToMilliseconds() >= ms(second)
    by_sequence = await state(api, as_of=after(first))
    assert (by_sequence.as_of.sequence, by_sequence.as_of.time.ToMilliseconds()) == (
        first,
        ms(first),
    )
    # A place without an event: the newest before it counts.
    between = await state(api, as_of=after(f"{ms(second)}-0"))
    assert between.as_of.sequence in (first, second)
    # Within the grace of a second clocks may disagree.
    soon = int(time.time() * 1000) + 500
    ahead = await state(api, as_of=event_pb2.Position(unix_ms=soon))
    assert (ahead.as_of.sequence, ahead.as_of.time.ToMilliseconds()) == (second, soon)


async def test_moments_in_the_future_are_refused(api: Api) -> None:
    (tail,) = await api.publish(event("k"))
    later = int(time.time() * 1000) + 60_000
    for position, reason, fact in (
        (at_ms(later), "TIME_IN_FUTURE", "now"),
        (event_pb2.Position(unix_ms=later), "TIME_IN_FUTURE", "now"),
        (after(f"{later}-0"), "SEQUENCE_IN_FUTURE", "tail_sequence"),
    ):
        for call in (
            state(api, as_of=position),
            streamed(api, as_of=position),
            diff(api, base=position),
            diff(api, base=after(tail), target=position),
            history(api, as_of=position),
            blame(api, as_of=position),
        ):
            refused = await refusal(call)
            assert (refused.code, refused.reason) == ("OUT_OF_RANGE", reason)
            assert set(refused.metadata) == {fact}
    refused = await refusal(state(api, as_of=at_ms(later)))
    now = refused.metadata["now"]
    assert now.endswith("Z")
    assert len(now) == len("2026-01-01T00:00:00.000Z")


async def test_pages_stay_at_the_moment_of_the_first(api: Api) -> None:
    await api.publish(*(event(f"k{n}") for n in range(5)))
    first = await state(api, page_size=2)
    await api.publish(event("k9"), event("k2", b"", tombstone=True))
    second = await state(api, page_size=2, page_token=first.next_page_token)
    third = await state(api, page_size=2, page_token=second.next_page_token)
    assert [keys(page) for page in (first, second, third)] == [["k0", "k1"], ["k2", "k3"], ["k4"]]
    assert [page.data_count for page in (first, second, third)] == [5, 5, 5]
    assert {page.as_of.sequence for page in (first, second, third)} == {first.as_of.sequence}
    assert third.next_page_token == ""


async def test_a_page_token_fits_the_request_it_was_made_for_only(api: Api) -> None:
    await api.publish(*(event(f"k{n}") for n in range(5)))
    await api.publish(event("k0"))
    token = (await state(api, page_size=2)).next_page_token
    other = (await diff(api, base=after("0"), page_size=2)).next_page_token
    third = (await history(api, "k0", page_size=1)).next_page_token
    for call in (
        state(api, page_token=token, prefix="k"),
        state(api, page_token=token, include_deleted=True),
        state(api, page_token=other),
        diff(api, base=after("0"), page_token=token),
        diff(api, base=after("1"), page_token=other),
        history(api, "k1", page_token=third),
        history(api, "k0", page_token=token),
    ):
        refused = await refusal(call)
        assert (refused.reason, refused.fields) == ("CURSOR_INVALID", ["page_token"])
    assert keys(await state(api, page_token=token, page_size=1)) == ["k2"]


# -- deletion ------------------------------------------------------------------------


async def test_a_deleted_key_keeps_its_history_and_goes_on_counting(api: Api) -> None:
    sequences = []
    for payload in (b"1", b"2", None, b"2", b"3"):
        new = event("k", b"", tombstone=True) if payload is None else event("k", payload)
        sequences += await api.publish(new)
    deleted = await state(api, as_of=after(sequences[2]))
    assert (keys(deleted), deleted.data_count) == ([], 0)
    listed = await state(api, as_of=after(sequences[2]), include_deleted=True)
    (datum,) = listed.data
    assert (datum.deleted, datum.revision, datum.event.event_type) == (True, 3, "data_deleted")
    (back,) = (await state(api)).data
    assert (back.deleted, back.revision) == (False, 5)
    found = await history(api)
    assert [r.event.revision for r in found.revisions] == [5, 4, 3, 2, 1]
    assert [r.HasField("patch") for r in found.revisions] == [True, False, False, True, False]
    assert (await revision(api, 3)).revision.event.event_type == "data_deleted"
    changed = await diff(api, base=after(sequences[1]))
    (change,) = changed.changes
    assert change.kind == state_service_pb2.CHANGE_KIND_CHANGED
    refused = await refusal(blame(api, as_of=after(sequences[2])))
    assert (refused.reason, refused.metadata) == ("DATA_KEY_NOT_FOUND", {"data_key": "k"})
    assert {part.revision for part in (await blame(api)).parts} == {5}


async def test_a_diff_may_lead_back(api: Api) -> None:
    (first,) = await api.publish(event("k", b'{"n":1}'))
    await api.publish(event("k", b'{"n":2}'), event("new"))
    there = await diff(api, base=after(first))
    back = await diff(api, base=after(there.target.sequence), target=after(first))
    assert [c.kind for c in there.changes] == [3, 1]
    assert [c.kind for c in back.changes] == [3, 2]
    assert json.loads(back.changes[0].patch.json_patch) == [
        {"op": "replace", "path": "/n", "value": 1}
    ]
    assert (back.added_count, back.removed_count, back.changed_count) == (0, 1, 1)
    without = await diff(api, base=after(first), omit_patches=True)
    assert not any(change.HasField("patch") for change in without.changes)


# -- errors --------------------------------------------------------------------------


async def test_unknown_keys_and_revisions_are_told_apart(api: Api) -> None:
    (first,) = await api.publish(event("other"))
    await api.publish(event("k"), event("k"))
    for call in (
        history(api, "nobody"),
        blame(api, "nobody"),
        revision(api, 1, "nobody"),
        history(api, as_of=after(first)),
        blame(api, as_of=after(first)),
    ):
        refused = await refusal(call)
        assert (refused.code, refused.reason) == ("NOT_FOUND", "DATA_KEY_NOT_FOUND")
        assert set(refused.metadata) == {"data_key"}
    refused = await refusal(revision(api, 3))
    assert refused.reason == "REVISION_NOT_FOUND"
    assert refused.metadata == {"data_key": "k", "revision": "3", "actual_revision": "2"}


async def test_what_was_trimmed_is_refused_or_said(api: Api, store: Any, server: Any) -> None:
    sequences = []
    for n in range(6):
        sequences += await api.publish(event("k", b'{"n":%d}' % n), event(f"k{n}"))
    name = next(k for k in await store.keys() if k.endswith(b":events"))
    await store.xtrim(name, minid=sequences[6], approximate=False)
    refused = await refusal(state(api, as_of=after(sequences[2])))
    assert refused.reason == "SEQUENCE_TRIMMED"
    assert refused.metadata == {"earliest_sequence": sequences[-1]}
    assert len((await state(api)).data) == 7
    found = await history(api)
    assert [r.event.revision for r in found.revisions] == [6, 5, 4]
    assert found.trimmed
    assert found.next_page_token == ""
    last = found.revisions[-1].patch
    assert (last.omitted, last.WhichOneof("form")) == (
        state_service_pb2.PATCH_OMITTED_TRIMMED,
        None,
    )
    refused = await refusal(revision(api, 2))
    assert (refused.reason, set(refused.metadata)) == ("SEQUENCE_TRIMMED", {"earliest_sequence"})
    blamed = await blame(api)
    assert not blamed.truncated
    refused = await refusal(blame(api, "k0"))
    assert (refused.reason, set(refused.metadata)) == ("SEQUENCE_TRIMMED", {"earliest_sequence"})
    (gone,) = (await state(api, data_keys=["k0"])).data
    assert (gone.revision, gone.HasField("event")) == (1, False)


# -- bounds --------------------------------------------------------------------------


def large(n: int, size: int = 900_000) -> bytes:
    return b'"%d' % n + b"x" * size + b'"'


async def test_pages_end_at_two_mebibytes(api: Api) -> None:
    for n in range(6):
        await api.publish(event(f"k{n}", large(n)))
    pages, token = [], ""
    while True:
        page = await state(api, page_token=token)
        assert page.ByteSize() <= 2 * MIB + 1_000
        pages.append(keys(page))
        token = page.next_page_token
        if not token:
            break
    assert pages == [["k0", "k1"], ["k2", "k3"], ["k4", "k5"]]
    messages = await streamed(api)
    assert [len(message.data) for message in messages] == [1] * 6
    rest = await streamed(api, after_data_key="k3", as_of=after(messages[0].as_of.sequence))
    assert [d.data_key for m in rest for d in m.data] == ["k4", "k5"]
    assert {m.data_count for m in rest} == {6}
    assert len(keys(await state(api, view=state_service_pb2.STATE_VIEW_KEYS))) == 6
    for n in range(4):
        await api.publish(event("k0", large(n)))
    page = await history(api, "k0")
    assert [r.event.revision for r in page.revisions] == [5, 4]
    assert not any(r.payload_omitted for r in page.revisions)
    assert {r.patch.omitted for r in page.revisions} == {state_service_pb2.PATCH_OMITTED_TOO_LARGE}
    page = await history(api, "k0", page_token=page.next_page_token)
    assert [r.event.revision for r in page.revisions] == [3, 2]
    page = await history(api, "k0", omit_payloads=True)
    assert [r.event.revision for r in page.revisions] == [5, 4, 3, 2, 1]


async def test_what_is_larger_than_a_page_comes_without_its_payload(
    start_server: Any, valkey: Any
) -> None:
    server = await start_server(valkey.url, limits={"payload_bytes": 3 * MIB})
    async with Api.of(server) as api:
        first = await api.publish(event("big", large(1, 5 * MIB // 2)))
        await api.publish(event("small"))
        page = await state(api)
        (datum,) = page.data
        assert datum.payload_omitted
        assert (datum.event.payload, datum.event.data_key) == (b"", "big")
        assert keys(await state(api, page_token=page.next_page_token)) == ["small"]
        await api.publish(event("big", large(2, 5 * MIB // 2)))
        (newest,) = (await history(api, "big", page_size=1)).revisions
        assert newest.payload_omitted
        assert newest.event.revision == 2
        changed = await diff(api, base=after(first[0]), data_keys=["big"])
        (change,) = changed.changes
        assert change.before.payload_omitted
        assert change.after.payload_omitted


async def test_a_large_state_is_streamed_in_order(api: Api) -> None:
    for n in range(20):
        await api.publish(*(event(f"{i:03}/{n:02}", b"%d" % n) for i in range(100)))
    messages = await streamed(api)
    found = [d.data_key for m in messages for d in m.data]
    assert found == sorted(f"{i:03}/{n:02}" for i in range(100) for n in range(20))
    assert {m.data_count for m in messages} == {2_000}
    (empty,) = await streamed(api, prefix="x")
    assert (list(empty.data), empty.data_count) == ([], 0)
    some = await state(api, data_keys=["00?/0*", "099/19"], page_size=1_000)
    assert some.data_count == 101


async def test_a_history_of_a_thousand_revisions_comes_in_one_page(api: Api) -> None:
    for start in range(0, 1_000, 100):
        await api.publish(
            *(event("k", json.dumps({"n": start + i, "s": "x" * 50}).encode()) for i in range(100))
        )
    page = await history(api, page_size=1_000)
    assert [r.event.revision for r in page.revisions] == list(range(1_000, 0, -1))
    assert page.next_page_token == ""
    assert all(r.patch.json_patch.count("{") == 1 for r in page.revisions[:-1])
    for number in (1, 2, 500, 999, 1_000):
        found = await revision(api, number)
        assert json.loads(found.revision.event.payload)["n"] == number - 1


async def test_blame_tells_who_set_what(api: Api) -> None:
    for publisher, document in (
        ("anna", {"timeout": 30, "hosts": ["a", "b"], "note": "x"}),
        ("ben", {"timeout": 60, "hosts": ["a", "b"], "note": "x"}),
        ("cleo", {"timeout": 60, "hosts": ["a", "c"], "note": "x"}),
    ):
        await api.publish(event("k", json.dumps(document).encode()), publisher=publisher)
    found = await blame(api)
    assert [(p.path, p.value, p.publisher, p.revision) for p in found.parts] == [
        ("/timeout", "60", "ben", 2),
        ("/hosts/0", '"a"', "anna", 1),
        ("/hosts/1", '"c"', "cleo", 3),
        ("/note", '"x"', "anna", 1),
    ]
    assert json.loads(found.event.payload)["timeout"] == 60
    then = await blame(api, as_of=after(found.parts[1].sequence))
    assert {p.publisher for p in then.parts} == {"anna"}


async def test_blame_of_very_many_parts_is_cut(api: Api) -> None:
    await api.publish(event("k", json.dumps(list(range(50_000))).encode()))
    found = await blame(api)
    assert found.truncated
    assert found.ByteSize() < 3 * MIB
    assert [part.path for part in found.parts[:2]] == ["/0", "/1"]


async def test_an_event_of_a_publishers_own_type_is_a_revision_too(api: Api) -> None:
    await api.publish(event("k", b"1"))
    await api.publish(event("k", b"2", event_type="price_changed"), own())
    (datum,) = (await state(api)).data
    assert (datum.revision, datum.event.event_type) == (2, "price_changed")
    assert [r.event.event_type for r in (await history(api)).revisions] == [
        "price_changed",
        "data_published",
    ]


# -- who asks as of a moment ---------------------------------------------------------


async def test_snapshots_serve_what_is_asked_meanwhile(start_server: Any, valkey: Any) -> None:
    server = await start_server(valkey.url, snapshot_events=10)
    async with Api.of(server) as api:
        places: list[str] = []
        for n in range(60):
            places += await api.publish(event(f"k{n % 7}", b"%d" % n))
            if n % 10 == 0:
                await asyncio.sleep(0.15)
        for n in (0, 5, 17, 33, 59):
            found = await state(api, as_of=after(places[n]))
            expected = {f"k{i % 7}": b"%d" % i for i in range(n + 1)}
            assert {d.data_key: d.event.payload for d in found.data} == expected
