"""What `contex listen --ack` tells where the last acknowledgement does not get through."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import contex
import pytest
from contex_cli import agents


async def test_what_could_not_be_acknowledged_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "_ACKNOWLEDGE_AT_EXIT_S", 0.2)
    stream: Any = SimpleNamespace(cursor="a cursor", position="1-0")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with contex.AsyncClient(f"127.0.0.1:{silent.getsockname()[1]}") as client:
            acknowledger = agents.Acknowledger(client, "shop", "checkout", stream)
            acknowledger.note()
            with pytest.raises(contex.Unavailable, match="it comes again"):
                await acknowledger.close()
