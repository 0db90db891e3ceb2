from __future__ import annotations

import pytest
from contex_server.kernel.errors import Reason
from contex_server.log.buckets import BUCKETS, bucket_of
from contex_server.log.redis.connections import connect, translate
from contex_server.log.redis.key_names import key
from redis.exceptions import BusyLoadingError, ConnectionError, OutOfMemoryError, ResponseError


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:6379/0",
        "rediss://user:secret@example.com:6380",
        "redis://[::1]:6379/0",
        "redis://user:p%23w%2F@localhost/0?protocol=3",
        "unix:///tmp/valkey.sock",
        "unix://user:secret@/tmp/a%23b%3Fc%20d/100%/valkey.sock?db=1",
        "redis+sentinel://one:26379,two/mymaster?db=1",
        "redis+sentinel://user:secret@one:26379/mymaster",
        "redis+cluster://user:secret@one:7000",
    ],
)
async def test_every_kind_of_store_has_connections(url: str) -> None:
    connections = connect(url)
    assert connections.node(0) == ""
    await connections.close()


@pytest.mark.parametrize("url", ["", "http://x", "localhost:6379", "redis+sentinel://one:26379"])
def test_another_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="store URL"):
        connect(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("unix:///tmp/a#b.sock", "has a '#': write it as %23"),
        ("unix:///tmp/a?cret.sock", "has something after its '?'.* as %3F"),
        ("unix:///tmp/a?cret=1", "has an unknown option"),
        ("redis://host?cret", "has something after its '?'"),
        ("redis://host?cret=1", "has an unknown option"),
        ("redis://host?db=cret", "Invalid value for 'db'"),
        ("redis+sentinel://one/s?cret", "has an unknown option"),
        ("redis+sentinel://one/s?sentinel_pasword=cret", "has an unknown option"),
        ("unix://tmp/valkey.sock", "unix:///absolute/path"),
        ("unix:///tmp/" + 50 * "\u00e9\u00e9", "a path of 205 bytes, and the system allows 10"),
        ("redis://:se#cret@localhost", "has a '#'"),
        ("redis://:se/cret@localhost", "an '@' .*; write a '/'"),
        ("redis://:12/cret@localhost", "an '@' .*; write a '/'"),
        ("redis://:12?cret@localhost", "an '@' .*; write a '/'"),
        ("redis://:12?cret=a@localhost", "an '@' .*; write a '/'"),
        ("redis+cluster://:12/cret@localhost", "an '@' .*; write a '/'"),
        ("redis+sentinel://:12/cret@localhost/s", "an '@' .*; write a '/'"),
        ("unix://:1/cret@/tmp/valkey.sock", "a host where none belongs"),
        ("redis://:[cret@localhost", "malformed"),
        ("redis://:cret\u2100@localhost", "malformed"),
        ("secret:word@localhost", "starts with redis://"),
        ("redis+sentinel://one:x/s", "a port that is no number"),
        ("redis+sentinel://one/s?db=x", "db is not a number"),
        ("redis+cluster://one:70000", "a port that is no number"),
    ],
)
def test_a_url_with_a_fault_is_refused(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        connect(url)
    assert "cret" not in str(refused.value)


@pytest.mark.parametrize(
    "scheme", ["redis+sentinel://u:p%23w@one/s", "redis+cluster://u:p%23w@one"]
)
def test_a_password_is_decoded(scheme: str) -> None:
    connections = connect(scheme)
    found = vars(connections).get("_cluster") or vars(connections)["_options"]
    assert "p#w" in str(found if isinstance(found, dict) else found.get_connection_kwargs())


@pytest.mark.parametrize(
    "told", ["ERR unknown command 'X', with args beginning with: 'cret'", "Protocol Error: b'cret'"]
)
def test_a_store_error_tells_no_arguments(told: str) -> None:
    assert "cret" not in translate(ResponseError(told)).message


def test_a_project_keeps_its_bucket_and_its_slot() -> None:
    assert bucket_of("shop") == bucket_of("shop") < BUCKETS
    tag = f"{{{bucket_of('shop')}}}"
    assert all(tag in key("shop", kind) for kind in ("events", "state", "cursors"))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionError("refused"), Reason.STORE_UNAVAILABLE),
        (BusyLoadingError("loading"), Reason.STORE_UNAVAILABLE),
        (ResponseError("MISCONF disk"), Reason.STORE_UNAVAILABLE),
        (OutOfMemoryError("command not allowed"), Reason.STORE_FULL),
        (ResponseError("OOM command not allowed"), Reason.STORE_FULL),
        (ResponseError("ERR wrong number of arguments"), Reason.INTERNAL),
    ],
)
def test_a_store_error_has_a_reason(error: Exception, reason: Reason) -> None:
    assert translate(error).reason is reason
