"""The master key is rotated, and the server killed while it wraps keys anew: nothing is lost, and
in the end nothing needs the old key."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest
from contex import AsyncClient, NewEvent

from tests.process.conftest import NewServer
from tests.process.servers import eventually

P = "p"
SUBJECTS = 600
"""More than are wrapped anew in one step."""


async def test_a_rotation_that_is_killed_goes_on(
    new_server: NewServer, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old.key", tmp_path / "new.key"
    for path in (old, new):
        path.write_bytes(base64.b64encode(os.urandom(32)))
    monkeypatch.setenv("CONTEX_SEGMENT_EVENTS", "300")
    monkeypatch.setenv("CONTEX_STORE_EVENTS", "300")
    server = new_server()
    server.environment = {"CONTEX_MASTER_KEY_FILE": str(old)}
    await server.start()
    events = [
        NewEvent(f"k{n}", {"n": n}, metadata={"subject": f"s{n}"} if n else {})
        for n in range(SUBJECTS + 1)
    ]
    async with AsyncClient(server.target) as client:
        assert (await client.set_encryption(P, True)).enabled
        for start in range(0, len(events), 50):
            await client.publish_batch(P, events[start : start + 50])
        before = await payloads(client)
        old_id = (await client.project(P)).encryption
        await eventually(lambda: len(archived_keys(data_dir)) >= 300)
    await server.end()
    server.environment = {
        "CONTEX_MASTER_KEY_FILE": str(new),
        "CONTEX_PREVIOUS_MASTER_KEY_FILE": str(old),
    }
    server.environment["CONTEX_FAILPOINT"] = "rewrapped=0"
    await server.start()
    assert await server.ended() == -9
    del server.environment["CONTEX_FAILPOINT"]
    await server.start()
    await server.logged("master_key_rotated")
    rest = await server.logged("rewrapped")
    assert 0 < rest["keys"] < SUBJECTS
    assert rest["left"] == 0
    async with AsyncClient(server.target) as client:
        assert await payloads(client) == before
        encryption = (await client.project(P)).encryption
        assert encryption is not None
        assert old_id is not None
        assert encryption.keys_to_rewrap == 0
        assert encryption.master_key_id not in ("", old_id.master_key_id)
    await server.end()
    old.unlink()
    server.environment = {"CONTEX_MASTER_KEY_FILE": str(new)}
    await server.start()
    async with AsyncClient(server.target) as client:
        assert await payloads(client) == before
    await server.end()
    # And neither does the archive.
    assert {key[1:5].hex() for key in archived_keys(data_dir)} == {encryption.master_key_id}


def archived_keys(data_dir: Path) -> list[bytes]:
    names = [path for path in (data_dir / "archive").rglob("keys/*") if "#" not in path.name]
    objects = [path.read_bytes() for path in names]  # The others are being written.
    return [base64.b64decode(json.loads(each)["key"]) for each in objects]


async def payloads(client: AsyncClient) -> list[bytes]:
    found = [event.payload async for event in client.list_events(P) if event.data_key]
    assert len(found) == SUBJECTS + 1
    assert all(found)
    return found
