"""The log of a real server holds no payload, key or password, whatever goes wrong."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from contex import AsyncClient, ContexError
from contex_server.log.redis.key_names import key
from redis.asyncio import Redis

from tests.canaries import CANARY, check_for_canaries
from tests.process.conftest import NewServer

P = "shop"
PASSWORD = f"pass{CANARY}"
ANNA = {"subject": "anna"}
PAYLOAD = {"secret": [CANARY] * 20_000}


async def test_errors_log_neither_payloads_nor_keys_and_little(
    new_server: NewServer, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTEX_EMBEDDER__API_KEY", PASSWORD)
    server = new_server()
    await server.start()
    async with (
        AsyncClient(server.target) as client,
        Redis(unix_socket_path=str(data_dir / "valkey" / "valkey.sock")) as store,
    ):
        hidden = await store.config_get("hide-user-data-from-log")
        assert {*hidden.values()} == {"yes"}
        await client.publish(P, "k", PAYLOAD)
        await client.publish(P, "sealed", PAYLOAD, metadata=ANNA)
        for kind in ("state", "stats", "agents"):
            await store.set(key(P, kind), CANARY * 10)
        calls = [
            lambda: client.publish(P, "k", PAYLOAD),
            lambda: client.publish(P, "sealed", PAYLOAD, metadata=ANNA),
            lambda: client.stats(P),
            lambda: client.register_agent(P, "agent", [CANARY]),
        ]
        for call in calls:
            with pytest.raises(ContexError) as failed:
                await call()
            assert failed.value.reason == "INTERNAL"
            assert CANARY not in str(failed.value)
    await server.end()
    errors = [line for line in server.log if line["event"] == "internal_error"]
    assert len(errors) >= len(calls)
    assert max(len(json.dumps(line)) for line in server.log) < 6_000
    check_for_canaries(server.log)
    master_key = (data_dir / "master.key").read_text().strip()
    assert master_key not in json.dumps(server.log)
    assert base64.b64decode(master_key).hex() not in json.dumps(server.log)


async def test_a_malformed_url_of_a_store_is_refused_without_its_password(
    new_server: NewServer,
) -> None:
    server = new_server("--redis-url", f"redis://:12/{PASSWORD}@127.0.0.1:1/0")
    with pytest.raises(AssertionError, match="the server ended"):
        await server.start()
    assert "write a '/'" in json.dumps(server.log)
    check_for_canaries(server.log)
