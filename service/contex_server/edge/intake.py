"""How many bytes of requests are let in at once.

A request counts from when its bytes are here, before it is parsed, until it is answered: while it
is handled, it takes several times as much memory and holds up what comes after it. Small requests
have bytes of their own, so they never wait behind large ones.
"""

from __future__ import annotations

from contex_server.kernel.byte_budget import ByteBudget, Share
from contex_server.kernel.errors import ContexError, Reason

SMALL_BYTES = 64 * 1024
_WAIT_S = 1.0
_RETRY_MS = 500
_LEND_AFTER_S = 10.0
"""A stream whose client takes no answers can't keep others out for longer."""


class Intake:
    """Lets requests in.

    Args:
        max_bytes: Of the large requests together, and of the small ones.
    """

    def __init__(self, max_bytes: int) -> None:
        self.large = ByteBudget(max_bytes, lend_after_s=_LEND_AFTER_S)
        self.small = ByteBudget(max_bytes, lend_after_s=_LEND_AFTER_S)

    async def take(self, size: int, owner: str = "", *, wait_s: float | None = _WAIT_S) -> Share:
        """The share of a request of a size, to be given back when it is answered. A request that is
        too much waits, None for as long as it takes, unless too many wait already. No owner
        holds, or waits for, more than half of all bytes; "" is nobody.

        Raises:
            ContexError: OVERLOADED.
        """
        budget = self.small if size < SMALL_BYTES else self.large
        share = await budget.take_within(size, wait_s, owner)
        if share is not None:
            return share
        raise ContexError(
            Reason.OVERLOADED,
            f"requests of {budget.held} bytes are being handled already, and {size} more are too "
            f"many: at most {budget.total} at once",
            metadata={"limit_bytes": str(budget.total)},
            retry_after_ms=_RETRY_MS,
        )
