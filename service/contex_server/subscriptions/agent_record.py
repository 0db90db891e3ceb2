"""How a registration lies in the store: JSON, opaque to the log."""

from __future__ import annotations

import orjson

from contex_server.model import Agent, Need


def encode_agent(agent: Agent) -> bytes:
    """A registration as it is stored."""
    return orjson.dumps(
        {
            "agent_id": agent.agent_id,
            "needs": [[need.text, need.digest.hex()] for need in agent.needs],
            "threshold": agent.threshold,
            "max_matches": agent.max_matches,
            "registered_ms": agent.registered_ms,
            "updated_ms": agent.updated_ms,
        }
    )


def decode_agent(record: bytes) -> Agent:
    """Reads what `encode_agent` wrote."""
    fields = orjson.loads(record)
    fields["needs"] = tuple(Need(text, bytes.fromhex(digest)) for text, digest in fields["needs"])
    return Agent(**fields)
