"""When an agent has passed an event."""

from __future__ import annotations

from dataclasses import replace

import pytest
from contex_server.inbox.progress import AgentProgress, DecidingState, Passing
from contex_server.kernel.inbox_ids import inbox_id
from contex_server.kernel.model import BEGINNING, Sequence

EVENT = Sequence(5, 1)
BEFORE, AFTER = Sequence(5, 0), Sequence(6, 0)
BLANK = AgentProgress(EVENT, DecidingState.LIVE, 0, BEGINNING, 0, False, 0, None)


@pytest.mark.parametrize(
    ("progress", "acknowledged", "decided"),
    [
        (BLANK, True, True),
        (replace(BLANK, decided=BEFORE), False, False),
        (replace(BLANK, decided=None), False, False),
        (replace(BLANK, first=inbox_id(AFTER)), True, True),
        (replace(BLANK, first=inbox_id(BEFORE)), False, True),
        # What the event brought besides itself has to be acknowledged as well.
        (replace(BLANK, acknowledged=EVENT, first=inbox_id(EVENT, 3)), False, True),
        (replace(BLANK, acknowledged=EVENT, decided=BEFORE), False, False),
        # Whoever acknowledged a later event has dealt with this one, decided or not.
        (replace(BLANK, acknowledged=AFTER, decided=BEFORE), True, False),
    ],
)
def test_what_is_passed(progress: AgentProgress, acknowledged: bool, decided: bool) -> None:
    assert progress.has_passed(EVENT, Passing.ACKNOWLEDGED) is acknowledged
    assert progress.has_passed(EVENT, Passing.DECIDED) is decided
