"""What the image and compose.yaml promise, without Docker: the same settings and packages."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from contex import AsyncClient
from contex_server.log.embedded import EmbeddedValkey

from tests.process.conftest import NewServer

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICE = COMPOSE["services"]["contex"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


async def test_a_fresh_server_of_compose_seals_archives_and_erases(
    new_server: NewServer,
    valkey: EmbeddedValkey,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in SERVICE["environment"].items():
        for mount in ("/data", "/keys"):
            value = value.replace(mount, f"{tmp_path}{mount}")
        monkeypatch.setenv(name, valkey.url if name == "CONTEX_REDIS_URL" else value)
    monkeypatch.setenv("CONTEX_ACCESS", "true")  # as by default
    server = new_server(directory=tmp_path / "unused")
    await server.start()
    key = tmp_path / "keys" / "master.key"
    assert key.stat().st_mode & 0o777 == 0o600
    first = key.read_bytes()
    async with AsyncClient(server.target, timeout=30) as client:
        await client.publish("p", "anna", "sealed", metadata={"subject": "anna"})
        await client.publish("p", "bert", "sealed", metadata={"subject": "bert"})
        await client.publish("p", "plain", "open")
        await client.erase("p", subject="anna", reason="asked")
        await client.erase("p", data_key="plain", reason="asked")
    await server.end()
    await server.start()
    assert not [line for line in server.log if line["event"] == "master_key_created"]
    assert key.read_bytes() == first
    async with AsyncClient(server.target, timeout=30) as client:
        payloads = {e.data_key: e.payload async for e in client.list_events("p", since="0")}
    assert (payloads["anna"], payloads["bert"], payloads["plain"]) == (b"", b"sealed", b"")
    assert list((tmp_path / "data" / "archive").rglob("*.seg"))
    assert not (tmp_path / "unused").exists()


async def test_a_key_that_is_missing_is_not_made_unasked(
    new_server: NewServer, valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTEX_MASTER_KEY_FILE", str(tmp_path / "master.key"))
        server = new_server("--redis-url", valkey.url)
        with pytest.raises(AssertionError, match=r"the master key can't be used.*master\.key"):
            await server.start()
    assert not list(tmp_path.glob("master.key*"))


def test_what_compose_writes_to_is_a_volume_that_the_image_has() -> None:
    mounts = dict(mount.split(":") for mount in SERVICE["volumes"])
    assert set(mounts) <= set(COMPOSE["volumes"])
    made = re.search(r"install --directory .*--mode=0700 (.*)", DOCKERFILE)
    assert made is not None
    assert set(mounts.values()) == set(made[1].split())
    paths = [
        SERVICE["environment"][f"CONTEX_{name}"] for name in ("ARCHIVE_URL", "MASTER_KEY_FILE")
    ]
    for path in paths:
        assert path.removeprefix("file://").startswith(tuple(f"{m}/" for m in mounts.values()))


def test_the_image_has_every_extra() -> None:
    synced = re.findall(r"^RUN uv sync .*", DOCKERFILE, re.MULTILINE)
    assert len(synced) == 2
    assert all("--all-extras" in line for line in synced)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"charts", "demo", "parquet"} <= set(extras["optional-dependencies"])
