"""A publish may depend on whether its key is absent, present or deleted."""

from __future__ import annotations

import asyncio
import random

import contex
import pytest
from contex.v1 import event_service_pb2 as pb
from contex_server.server import Server

from tests.integration.support import Api, event, refusal

ABSENT, PRESENT, DELETED = pb.KEY_STATE_ABSENT, pb.KEY_STATE_PRESENT, pb.KEY_STATE_DELETED
NAMES = {ABSENT: "absent", PRESENT: "present", DELETED: "deleted"}


async def test_whatever_came_before_decides(api: Api) -> None:
    """Random batches over few keys, against what a model of the log says."""
    chance = random.Random(14)
    states: dict[str, pb.KeyState.ValueType] = {}
    revisions: dict[str, int] = {}
    refused_count = 0
    for _ in range(150):
        batch, after, at = [], dict(states), dict(revisions)
        conflict: tuple[int, dict[str, str]] | None = None
        for index in range(chance.randint(1, 4)):
            key, tombstone = chance.choice("abc"), chance.random() < 0.4
            expected = chance.choice([0, ABSENT, PRESENT, PRESENT, DELETED])
            actual = after.get(key, ABSENT)
            if conflict is None and expected and expected != actual:
                conflict = (
                    index,
                    {
                        "data_key": key,
                        "expected_state": NAMES[expected],
                        "actual_state": NAMES[actual],
                        "actual_revision": str(at.get(key, 0)),
                    },
                )
            payload = b"" if tombstone else b"1"
            batch.append(event(key, payload, tombstone=tombstone, expected_state=expected))
            after[key] = DELETED if tombstone else PRESENT
            at[key] = at.get(key, 0) + 1
        if conflict is None:
            await api.publish(*batch)
            states, revisions = after, at
        else:
            refused_count += 1
            refused = await refusal(api.publish(*batch))
            assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "REVISION_CONFLICT")
            assert refused.metadata == conflict[1]
            assert conflict[1]["actual_state"] in refused.message
    assert 20 < refused_count < 130


async def test_a_conflict_of_revisions_says_whether_the_key_is_deleted(api: Api) -> None:
    await api.publish(event("k"))
    await api.publish(event("k", b"", tombstone=True))
    refused = await refusal(api.publish(event("k", expected_revision=1)))
    assert refused.metadata["actual_state"] == "deleted"
    assert "at revision 2 and deleted, not 1" in refused.message


async def test_one_of_many_creates_a_key(api: Api, server: Server) -> None:
    async with contex.AsyncClient(f"127.0.0.1:{server.port}") as client:

        async def create(number: int) -> bool:
            state = contex.KeyState.ABSENT
            try:
                await client.publish("shop", "leader", number, expected_state=state)
            except contex.RevisionConflict as error:
                return (error.actual_state, error.actual_revision) != ("present", 1)
            return True

        assert sum(await asyncio.gather(*map(create, range(20)))) == 1
        with pytest.raises(contex.RevisionConflict):
            await client.delete("shop", "leader", expected_state=contex.KeyState.DELETED)
        await client.delete("shop", "leader", expected_state=contex.KeyState.PRESENT)
        batch = [
            contex.NewEvent("leader", 1, expected_state=contex.KeyState.DELETED),
            contex.NewEvent("leader", 2, expected_state=contex.KeyState.DELETED),
        ]
        with pytest.raises(contex.RevisionConflict) as conflict:
            await client.publish_batch("shop", batch)
        assert conflict.value.actual_state == "present"  # by the event before it
