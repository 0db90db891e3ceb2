"""Asks a store whether it is there yet."""

from __future__ import annotations

import asyncio

from redis.exceptions import ResponseError

from contex_server.kernel.errors import StartupError
from contex_server.kernel.telemetry import shown_url
from contex_server.kernel.waiting import announced
from contex_server.log.redis.connections import STORE_ERRORS, connect, execute_one, translate

STORE_WAIT_S = 15.0
_RETRY_S = 0.25


async def reach(url: str) -> None:
    """Returns when a store answers, and says meanwhile what it waits for.

    Raises:
        StartupError: The URL is none, or the store does not answer for some time.
    """
    deadline = asyncio.get_running_loop().time() + STORE_WAIT_S
    told = "no answer yet"
    place = shown_url(url)

    async with announced(lambda: f"the store {place}: {told}"):
        while True:
            try:
                answer = await ask(url, "PING")
            except ValueError as error:
                raise StartupError(str(error)) from error
            if not isinstance(answer, Exception) or isinstance(answer, ResponseError):
                return
            told = translate(answer).message
            if asyncio.get_running_loop().time() > deadline:
                raise StartupError(translate(answer).message) from answer
            await asyncio.sleep(_RETRY_S)


async def ask(url: str, *command: str) -> object:
    """A store's reply, or the error if it can't be reached or ends the connection."""
    connections = connect(url, patience_s=0)
    try:
        async with connections.lease(0) as connection:
            return await execute_one(connection, *command)
    except STORE_ERRORS as error:
        return error
    finally:
        await connections.close()
