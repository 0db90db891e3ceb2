from __future__ import annotations

import asyncio

import pytest
from contex_server.kernel.errors import ContexError
from contex_server.kernel.model import Sequence
from contex_server.match.waiters import PositionWaiters

_PATIENCE_S = 0.05


async def test_who_waits_is_patient_while_matching_goes_on() -> None:
    reached = PositionWaiters()
    waiting = asyncio.create_task(reached.wait_for(Sequence(9, 0), _PATIENCE_S))
    for number in range(1, 10):
        await asyncio.sleep(_PATIENCE_S / 2)
        assert not waiting.done()
        reached.advance(Sequence(number, 0))
    await waiting


async def test_who_waits_is_patient_while_an_index_is_built() -> None:
    reached, busy = PositionWaiters(), True
    waiting = asyncio.create_task(reached.wait_for(Sequence(9, 0), _PATIENCE_S, lambda: busy))
    await asyncio.sleep(3 * _PATIENCE_S)
    assert not waiting.done()
    busy = False
    with pytest.raises(ContexError, match="matching has stayed at 0-0 for 0 s, before 9-0"):
        await waiting
