"""Nothing that a server prints holds a part of a password or key, however its settings are
mistyped, and whatever can't be reached.

Every server of these tests is a process of its own, of which all output is looked at.
"""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

LEFT, RIGHT = "jx4kleft", "kw8right"
"""The halves of each password: if one of them is met, a part of it is."""
CHARACTERS = (
    *("", "/", "?", "#", "@", ":", " ", "'", '"', "<", "%", "%2F", "%zz", "[", "\\", "&", "="),
    *("\u2100", "\u00e9", "\n", "\udcff", "\U0001f511"),
)
PASSWORDS = tuple(f"{LEFT}{character}{RIGHT}" for character in CHARACTERS)
AWAY = "127.0.0.1:1"
KEY = base64.b64encode((LEFT + RIGHT).encode() * 2).decode()
"""A master key: 32 bytes."""


def store_urls() -> Iterable[str]:
    for password in PASSWORDS:
        yield f"redis://user:{password}@{AWAY}/0"
    for form in (
        "redis://:{}",  # without a host
        "redis://{}:x",
        "redis:/:{}@host",
        "redis:{}@host",
        ":{}@host",
        "{}",
        " redis://:{}@" + AWAY,
        "http://:{}@host",
        "redis://host/{}@0",
        "redis://host?{}",
        "redis://host?{}=1",
        "redis://host?db={}",
        f"redis://{AWAY}?password={{}}",
        f"rediss://:{{}}@{AWAY}?ssl_cert_reqs={{}}",
        f"redis+sentinel://:{{}}@{AWAY}/main?sentinel_password={{}}",
        "redis+sentinel://host/main?sentinel_pass={}",
        "redis+sentinel://host/main?{}",
        f"redis+cluster://:{{}}@{AWAY}",
        "redis+cluster://:{}@host:port",
        "unix://user:{}@/no/such.sock",
        "unix://{}/no/such.sock",
        "unix:///no/such.sock?{}",
        "redis://:{}@no such host/0",
        "redis://:{}@" + "a" * 300,
        "redis://:{}@a..b",
    ):
        yield form.format(*[PASSWORDS[0]] * form.count("{}"))


def archive_urls() -> Iterable[str]:
    for password in PASSWORDS:
        yield f"s3://AKIA:{password}@bucket/x"
    for form in ("file://u:{}@host/x", "http://a:{}@b/c", "az://c?sig={}", "s3://b?X-Amz={}"):
        yield form.format(PASSWORDS[0])


def embedder_urls() -> Iterable[str]:
    for password in PASSWORDS:
        yield f"http://user:{password}@host/v1"
    yield from (f"http://host/v1?key={LEFT}", f"http://host:{LEFT}/v1", f"{LEFT}:{RIGHT}")


def cases() -> dict[str, dict[str, str]]:
    """The settings of each case, besides others that hold the canary, too."""
    found = {f"store {url!a}": {"CONTEX_REDIS_URL": url} for url in store_urls()}
    found |= {f"archive {url!a}": {"CONTEX_ARCHIVE_URL": url} for url in archive_urls()}
    found |= {f"embedder {url!a}": {"CONTEX_EMBEDDER__BASE_URL": url} for url in embedder_urls()}
    found["previous embedder"] = {"CONTEX_PREVIOUS_EMBEDDER": f'{{"api_key": "{LEFT}'}
    found["embedder's key mistyped"] = {"CONTEX_EMBEDDER__APIKEY": LEFT}
    found["embedder as JSON"] = {"CONTEX_EMBEDDER": f'{{"api_key": ["{LEFT}"]}}'}
    found["master key for its file"] = {"CONTEX_MASTER_KEY_FILE": KEY}
    found["previous master key for its file"] = {"CONTEX_PREVIOUS_MASTER_KEY_FILE": KEY}
    return found


# Each takes a second or two: those that differ most are always tried.
ALWAYS = (
    f"store 'redis://user:{LEFT}/{RIGHT}",
    f"store 'redis://user:{LEFT} {RIGHT}",
    f"store 'redis://user:{LEFT}\\u2100{RIGHT}",
    f"store 'redis://host?{LEFT}{RIGHT}'",
    "store 'redis+sentinel://:",
    f"archive 's3://AKIA:{LEFT}\\u2100{RIGHT}",
    f"embedder 'http://user:{LEFT}\\u2100{RIGHT}",
    "master key for its file",
)


@pytest.mark.parametrize(
    "case",
    [
        case if case.startswith(ALWAYS) else pytest.param(case, marks=pytest.mark.thorough)
        for case in cases()
    ],
)
async def test_a_start_that_fails_or_waits_prints_no_password(case: str, data_dir: Path) -> None:
    settings = cases()[case]
    if "CONTEX_EMBEDDER__BASE_URL" in settings:
        settings |= {"CONTEX_EMBEDDER__KIND": "openai", "CONTEX_EMBEDDER__MODEL": "m"}
    output = await printed(data_dir, settings)
    assert output.strip(), "it says what is wrong, or what it does"
    check(output)


async def test_what_cannot_be_read_as_a_master_key_is_not_shown(data_dir: Path) -> None:
    path = data_dir / "key"
    path.write_text(f"{LEFT}!{RIGHT}")
    output = await printed(data_dir, {"CONTEX_MASTER_KEY_FILE": str(path)})
    assert "the master key can't be used" in output
    check(output)


def check(output: str) -> None:
    """Fails if a half of the canary is there, as it is or encoded."""
    output = output.lower()
    for half in (LEFT, RIGHT, KEY[:10], KEY[-10:], LEFT.encode().hex(), RIGHT.encode().hex()):
        assert half.lower() not in output, output


async def printed(data_dir: Path, settings: dict[str, str]) -> str:
    """What `contex serve` prints until it ends, or until it serves or waits and is then ended."""
    secrets = {
        "CONTEX_EMBEDDER__API_KEY": LEFT + RIGHT,
        "AWS_SECRET_ACCESS_KEY": LEFT + RIGHT,
        "AWS_ENDPOINT": "http://127.0.0.1:1",
        "AWS_ALLOW_HTTP": "true",
    }
    if any(name.startswith("CONTEX_EMBEDDER") for name in settings):
        del secrets["CONTEX_EMBEDDER__API_KEY"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "contex_cli", "serve", "--port", "0"),
        *("--data-dir", str(data_dir), "--log-format", "json", "--log-level", "debug"),
        env=os.environ | secrets | settings | {"CONTEX_DEBUG": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    lines = []
    try:
        async with asyncio.timeout(60):
            async for line in process.stdout:
                lines.append(line)
                if b'"start_waits"' in line or b'"serving"' in line:
                    process.send_signal(signal.SIGTERM)
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return b"".join(lines).decode(errors="replace")
