"""The format marker: which format the data in a store have. See docs/adr/0017."""

from __future__ import annotations

from redis.asyncio.connection import AbstractConnection

from contex_server.kernel.errors import StartupError
from contex_server.log.redis.connections import execute_one

STORE_FORMAT = 1
"""The format that this version reads and writes. Stores older than the marker have it, too."""
FORMAT_KEY = "ctx:{0}:format"
"""One for the whole store, in the slot of the bucket that every server opens first."""


async def check_format(connection: AbstractConnection) -> None:
    """Refuses a store of another format, and marks one that has no marker yet.

    Call it before anything is changed in the store, its functions included.

    Args:
        connection: To the server that holds bucket 0.

    Raises:
        StartupError: The store has a format that this version does not read.
    """
    ours = str(STORE_FORMAT).encode()
    # Read first: a store that is full still opens, and takes no write.
    found = await execute_one(connection, "GET", FORMAT_KEY)
    if found is None:
        found = await execute_one(connection, "SET", FORMAT_KEY, ours, "NX", "GET") or ours
    if found != ours:
        raise StartupError(
            f"the store has format {found.decode(errors='replace')}, and this version of Contex "
            f"reads format {STORE_FORMAT}: start the version that wrote it, or a later one"
        )
