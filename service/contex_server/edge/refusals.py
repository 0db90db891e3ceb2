"""Which calls go into a project's audit as refused."""

from __future__ import annotations

from typing import Any

from contex_server.audit.writer import AuditWriter
from contex_server.edge.incoming import Incoming, Rest
from contex_server.kernel import names
from contex_server.kernel.codes import Code, code_of
from contex_server.kernel.errors import ContexError

_FAILURES = {Code.INTERNAL, Code.UNAVAILABLE, Code.DATA_LOSS}
"""The server's own trouble: no refusal, unless it kept the call from its servicer."""


class Refusals:
    """Records refused calls that name a valid project.

    How many records that makes is bounded by `AuditWriter.refused`.
    """

    def __init__(self, audit: AuditWriter) -> None:
        self._audit = audit

    async def record(self, call: Incoming, rest: Rest) -> Any:
        """Link: records that the call was refused, by whom it was made and why it was refused."""
        try:
            return await rest(call)
        except ContexError as error:
            failed = call.served and code_of(error.reason) in _FAILURES
            if not failed and names.PROJECT.fullmatch(call.project):
                self._audit.refused(call.project, call.origin, call.method, error.reason)
            raise
