"""What agents of earlier versions hold: what their journals say that they were sent."""

from __future__ import annotations

from contex_server.inbox.holdings import DIGEST_BYTES, Holding
from contex_server.kernel.model import Sequence
from contex_server.log.agents import JournalStore

_UNKNOWN = bytes(DIGEST_BYTES)


async def sent_before(
    journals: JournalStore, project: str, agent_id: str, cursor: Sequence
) -> dict[str, Holding]:
    """What an agent holds of each datum that it was sent up to its cursor.

    Of what it was sent after its cursor it is not known which revision it had before, and it is
    sent again: any revision after the cursor counts as an update.
    """
    held: dict[str, Holding] = {}
    for name, said in (await journals.sent(project, agent_id)).items():
        event, revision, mark, *_ = said.decode().split(" ")
        last = int(revision) if Sequence.parse(event) <= cursor else 0
        held[name] = Holding(min(1, last), last, _UNKNOWN, mark == "L")
    return held
