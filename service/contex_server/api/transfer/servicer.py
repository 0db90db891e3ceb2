"""TransferService: check, call the domain, convert."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from contex.v1 import transfer_service_pb2 as pb

from contex_server.api.transfer import checks, messages
from contex_server.kernel.call import Call
from contex_server.kernel.config import Settings
from contex_server.kernel.drain import Drain
from contex_server.kernel.errors import ContexError, Reason, invalid_field
from contex_server.rooms import Rooms


class TransferServicer:
    """See `protos/contex/v1/transfer_service.proto`."""

    SERVICE = pb.DESCRIPTOR.services_by_name["TransferService"]

    def __init__(self, settings: Settings, rooms: Rooms, drain: Drain) -> None:
        self._exporter = rooms.transfer.exporter
        self._importer = rooms.transfer.importer
        self._audit = rooms.audit.writer
        self._limits = settings.limits

    async def export(self, request: pb.ExportRequest, call: Call) -> None:
        wanted = checks.export(request, self._limits, call.scope)
        events = 0
        try:
            async with aclosing(self._exporter.export(wanted)) as pieces:
                async for piece in pieces:
                    events = piece.events
                    for message in messages.export_messages(wanted.project, piece):
                        await call.write(message.SerializeToString())
        finally:
            self._audit.exported(wanted.project, call.origin, call.method, events)

    async def import_(self, requests: AsyncGenerator[pb.ImportRequest, None], call: Call) -> None:
        async with aclosing(requests) as parts:
            first = await anext(parts, None)
            if first is None or first.WhichOneof("part") != "start":
                raise invalid_field("start", "must come first")
            started = await self._importer.begin(
                checks.start(first.start, self._limits), call.origin
            )
            keep = True
            try:
                await call.write(messages.progress_message(started))
                async for request in parts:
                    match request.WhichOneof("part"):
                        case "data":
                            await started.feed(checks.data(request.data))
                            await call.write(messages.progress_message(started))
                        case "finish":
                            report = await started.finish()
                            keep = False
                            await call.write(messages.progress_message(started, report))
                            return
                        case part:
                            raise invalid_field(part or "part", "must be data or finish")
                # The client went away without finishing: it can continue later.
            except ContexError as error:
                keep = error.reason not in _FINAL
                raise
            finally:
                await started.close(keep=keep)


_FINAL = {Reason.IMPORT_MALFORMED, Reason.PROJECT_NOT_EMPTY}
"""Sending the rest again can't mend these."""
