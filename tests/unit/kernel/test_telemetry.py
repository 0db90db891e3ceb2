"""What is logged is bounded, and holds no payload, key, password or token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import Any

import orjson
import pytest
from contex_server.kernel.config import EmbedderSettings, Settings
from contex_server.kernel.errors import ContexError, Reason
from contex_server.kernel.telemetry import clean, cleaned_text, shown_url
from pydantic import SecretStr

from tests.canaries import CANARY


def cleaned(**fields: Any) -> str:
    return json.dumps(clean(None, "error", fields))


def raised(error: Exception, depth: int = 0, local: object = None) -> Exception:
    """The error with a traceback of this depth and more."""
    try:
        if depth:
            raise raised(error, depth - 1, local)
        raise error
    except Exception as caught:
        return caught


def of(read: Any, *arguments: Any) -> Exception:
    try:
        read(*arguments)
    except Exception as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    "error",
    [
        ValueError(f"no number: {CANARY}"),
        of(int, f"x{CANARY}"),
        of({}.__getitem__, CANARY),
        of(orjson.loads, f"{{{CANARY}"),
        of((CANARY.encode() + b"\xff").decode),
        of(Settings.model_validate, {"port": f"x{CANARY}"}),
        ExceptionGroup(CANARY, [ValueError(CANARY)]),
        OSError(CANARY),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_told_without_the_values_that_it_quotes(error: Exception) -> None:
    told = cleaned(event="internal_error", exc_info=raised(error, 3, local=CANARY))
    assert CANARY not in told
    assert type(error).__name__ in told
    assert "test_telemetry.py:" in told


def test_what_contex_says_and_the_system_is_told() -> None:
    cause = raised(FileNotFoundError(2, "No such file", CANARY))
    try:
        raise ContexError(Reason.INTERNAL, "append failed") from cause
    except ContexError as error:
        told = clean(None, "error", {"exc_info": error})["exception"]
    assert [(each["type"], each["message"]) for each in told] == [
        ("contex_server.kernel.errors.ContexError", "append failed"),
        ("FileNotFoundError", "[Errno 2] No such file"),
    ]


def test_a_record_is_bounded() -> None:
    error = raised(ContexError(Reason.INTERNAL, "x" * 10**6), 300, local="x" * 10**6)
    for _ in range(50):
        outer = ValueError("outer")
        outer.__cause__ = error
        error = raised(outer)
    assert len(cleaned(event="internal_error", method="Publish", exc_info=error)) < 4_000
    fields = {f"f{n}": "x" * 10**6 for n in range(1_000)}
    assert len(cleaned(**fields)) < 20_000
    assert len(cleaned(some=["x" * 10**6] * 1_000, other={"x": CANARY}, raw=b"x" * 10**6)) < 2_000


@pytest.mark.parametrize(
    "text",
    [
        "redis://user:{}@host:6379/0",
        "redis://:12/{}@host",
        "GET https://s3/x?X-Amz-Signature={}&a=b",
        "https://account/x?sv=1&sig={}",
        "Authorization: Bearer {}",
        '{{"api_key": "{}"}}',
        "password={}",
        "AWS_SECRET_ACCESS_KEY: {}",
    ],
)
def test_a_password_or_token_is_not_told(text: str) -> None:
    assert CANARY not in cleaned_text(f"before {text.format(CANARY)} after")
    assert cleaned_text("max tokens: 8191 for key 'stock' at 10:00") == (
        "max tokens: 8191 for key 'stock' at 10:00"
    )


def test_a_control_character_does_not_reach_a_terminal() -> None:
    assert cleaned_text("a\n\x1b[31mb") == "a [31mb"


def test_the_settings_know_their_secrets() -> None:
    settings = Settings(
        redis_url="redis://user:p%40ssword@host",
        embedder=EmbedderSettings(
            kind="openai", base_url="http://x", model="m", api_key=SecretStr("sk-1")
        ),
    )
    assert {"p%40ssword", "p@ssword", "sk-1"} <= settings.secrets
    assert Settings(redis_url="unix:///tmp/x").secrets == set()


SCRIPT = """
    import asyncio, gc, logging, sys, threading
    from contex_server.kernel.telemetry import configure_logging, loop_failed
    canary = sys.argv[1]
    configure_logging("info", sys.argv[2], {canary[:-3] + "key"})

    def fail():
        raise ValueError(canary)

    class Ends:
        def __del__(self):
            fail()

    async def main():
        asyncio.get_running_loop().set_exception_handler(loop_failed)
        async def fails():
            fail()
        task = asyncio.create_task(fails(), name="forgotten")
        await asyncio.sleep(0)
        del task
        gc.collect()

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    Ends()
    asyncio.run(main())
    log = logging.getLogger("some.library")
    log.error("a request of %s failed", canary)
    log.error(f"a request failed: {canary!r}\\nwith {canary}")
    try:
        fail()
    except ValueError:
        log.exception("it failed")
    log.error("the key is " + canary[:-3] + "key")
"""


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_what_nobody_handles_is_logged_alike(log_format: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), CANARY, log_format],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    told = ran.stdout + ran.stderr
    assert CANARY[:-3] not in told
    assert told.count("uncaught") == 2
    assert "Task exception was never retrieved" in told
    assert "forgotten" in told
    assert "a request of %s failed" in told
    assert "some.library:" in told
    assert told.count("ValueError") == 4
    if log_format == "json":
        assert len([json.loads(line) for line in told.splitlines()]) == 7


@pytest.mark.parametrize(
    "text",
    [
        "ctx_7q2m4k9x1b5d_{}",
        "metadata (('authorization', 'ctx_7q2m4k9x1b5d_{}'),)",
        "(('authorization', 'Bearer {}'), ('x', 'y'))",
        "('authorization', b'{}')",
        "authorization: Basic {}",
        '{{"Authorization": "{}"}}',
        "eyJhbGciOiJIUzI1NiJ9.{}.c2lnbmF0dXJl",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.{}",
    ],
)
def test_what_proves_who_calls_is_not_told(text: str) -> None:
    assert CANARY not in cleaned_text(f"before {text.format(CANARY)} after")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:p a's<s>@w/o?r#d@host:1/0", "redis://***@host:1/0"),
        ("redis://host:1/0?password=x", "redis://host:1/0"),
        ("unix:///tmp/valkey.sock", "unix:///tmp/valkey.sock"),
        ("redis:/:password@host", "redis:/***@host"),
        ("user:password@host", "***@host"),
        ("s3://key:secret@bucket/prefix?sig=x", "s3://***@bucket/prefix"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert shown_url(url) == shown


def test_settings_show_no_urls_and_know_the_credentials_of_the_archive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"k{CANARY}")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", f"t{CANARY}")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/a/file")
    url = f"redis://:p {CANARY}/@host?sentinel_password=s{CANARY}"
    settings = Settings(redis_url=url, archive_url=f"s3://a:{CANARY}@b")
    assert CANARY not in repr(settings)
    told = settings.secrets
    assert {f"k{CANARY}", f"t{CANARY}", f"s{CANARY}", f"p%20{CANARY}%2F"} <= told
    assert "/a/file" not in told
