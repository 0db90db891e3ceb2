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
        "unix:///tmp/valkey.sock",
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
