"""Questions, explanations and feedback."""

from __future__ import annotations

from contex.v1.match_service_pb2 import AgentNeed

from tests.integration.hostile.scene import AGENT
from tests.integration.hostile.table import (
    AROUND,
    FEW,
    NASTY,
    NO_SEQUENCE,
    UNPRINTABLE,
    long_names,
    refuse,
    some,
)

for _rpc in ("Match", "Explain", "Backtest"):
    for _number in (0.0, -1.0, 1.0000001, float("nan")):
        refuse(_rpc, f"threshold {_number}", "threshold", threshold=_number)
for _value in (101, 2**32 - 1):
    refuse("Match", f"max_matches {_value}", "max_matches", max_matches=_value)
for _text in ("", "a\tb", "a\\", "a" * 513):
    refuse("Match", f"keys {_text[:9]!r}", "data_keys[1]", data_keys=["x*", _text])
refuse("Match", "keys too many", "data_keys", data_keys=["*"] * 33)


# Explain.
for _name, _text in {"blank": " ", "too long": "a" * 1_001}.items():
    refuse("Explain", f"text {_name}", "text", text=_text)
for _name, _text in {"empty": "", **long_names(256), **UNPRINTABLE, **AROUND}.items():
    refuse("Explain", f"key {_name}", "data_key", data_key=_text)
for _name, _text in {"empty": "", **some(NO_SEQUENCE, "negative", "far too long")}.items():
    refuse("Explain", f"sequence {_name}", "sequence", sequence=_text)
refuse(
    "Explain",
    "a key that nobody knows",
    expect={
        "reason": "DATA_KEY_NOT_FOUND",
        "code": "NOT_FOUND",
        "metadata": frozenset({"data_key"}),
    },
    data_key="nobody.knows",
)
refuse(
    "Explain",
    "no event",
    expect={
        "reason": "EVENT_NOT_FOUND",
        "code": "NOT_FOUND",
        "metadata": frozenset({"sequence"}),
    },
    sequence="5-5",
)
for _name, _text in some({"empty": "", **long_names(128), **NASTY}, *FEW).items():
    refuse(
        "Explain",
        f"agent_id {_name}",
        "agent_need.agent_id",
        agent_need=AgentNeed(agent_id=_text),
    )
refuse(
    "Explain",
    "a need too many",
    "agent_need.need_index",
    agent_need=AgentNeed(agent_id=AGENT, need_index=1),
)
for _name, _text in {"another text": "other", "a long text": "a" * 1_001}.items():
    refuse(
        "Explain",
        f"{_name} of a need",
        "agent_need.need",
        agent_need=AgentNeed(agent_id=AGENT, need=_text),
    )


# Feedback.
for _name, _text in {"empty": "", **some(NO_SEQUENCE, "negative", "far too long")}.items():
    refuse("RecordFeedback", f"sequence {_name}", "sequence", sequence=_text)
for _value in (1, 2**32 - 1):
    refuse("RecordFeedback", f"need {_value}", "need_index", need_index=_value)
refuse("RecordFeedback", "another text", "need", need="other")
refuse("RecordFeedback", "a long need", "need", need="a" * 1_001)
refuse("RecordFeedback", "a long comment", "comment", comment="a" * 1_001)
refuse("RecordFeedback", "a bad request id", "request_id", request_id="a b")
refuse(
    "RecordFeedback",
    "no event",
    expect={
        "reason": "EVENT_NOT_FOUND",
        "code": "NOT_FOUND",
        "metadata": frozenset({"sequence"}),
    },
)
