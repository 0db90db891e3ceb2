"""A bare grpc.aio server: what gRPC itself costs in Python, and nothing else.

Unary answers every call with the same bytes. Subscribe streams to any number of readers what
Post is given, each reader through a queue of its own.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Any

import grpc

UNARY = "/bare.Bare/Unary"
SUBSCRIBE = "/bare.Bare/Subscribe"
POST = "/bare.Bare/Post"

Context = grpc.aio.ServicerContext[Any, Any]


async def _serve(response: bytes) -> None:
    queues: set[asyncio.Queue[bytes]] = set()

    async def unary(raw: bytes, context: Context) -> bytes:
        return response

    async def post(raw: bytes, context: Context) -> bytes:
        for queue in queues:
            queue.put_nowait(raw)
        return response

    async def subscribe(raw: bytes, context: Context) -> None:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        queues.add(queue)
        try:
            await context.write(b"joined")
            while True:
                await context.write(await queue.get())
        finally:
            queues.discard(queue)

    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", -1),
            ("grpc.server.max_pending_requests", 20_000),
            ("grpc.server.max_pending_requests_hard_limit", 30_000),
        ]
    )
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "bare.Bare",
                {
                    "Unary": grpc.unary_unary_rpc_method_handler(unary),
                    "Post": grpc.unary_unary_rpc_method_handler(post),
                    "Subscribe": grpc.unary_stream_rpc_method_handler(subscribe),
                },
            ),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"event": "serving", "port": port}), file=sys.stderr, flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(_serve(bytes(int(sys.argv[1]))))
