"""TransferService: check, call the domain, convert."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from contex.v1 import transfer_service_pb2 as pb

from contex_server.api.shared.servicer import Servicer
from contex_server.api.transfer import checks, messages
from contex_server.kernel.call import Call
from contex_server.kernel.errors import ContexError, Reason, invalid_field


class TransferServicer(Servicer):
    SERVICE = pb.DESCRIPTOR.services_by_name["TransferService"]

    async def export_project(self, request: pb.ExportProjectRequest, call: Call) -> None:
        query = checks.export(request, self._limits, call)
        events = 0
        try:
            async with aclosing(self._rooms.transfer.exporter.export(query)) as pieces:
                async for piece in pieces:
                    events = piece.events
                    for message in messages.export_messages(call.realm, piece):
                        await call.write(message.SerializeToString())
        finally:
            self._audit.exported(query.project, call.origin, call.method, events)

    async def import_project(
        self, requests: AsyncGenerator[pb.ImportProjectRequest, None], call: Call
    ) -> None:
        async with aclosing(self._drain.until_started(requests)) as parts:
            first = await anext(parts, None)
            if first is None or first.WhichOneof("part") != "start":
                raise invalid_field("start", "must come first")
            call.admit(call.project)
            start = checks.start(first.start, self._limits)
            started = await self._rooms.transfer.importer.begin(start, call.origin)
            keep = True
            try:
                await call.write(messages.progress_message(started))
                async for request in parts:
                    match request.WhichOneof("part"):
                        case "data":
                            if len(request.data) > messages.MESSAGE_BYTES:
                                limit = f"must have at most {messages.MESSAGE_BYTES} bytes"
                                raise invalid_field("data", limit)
                            await started.feed(request.data)
                            await call.write(messages.progress_message(started))
                        case "finish":
                            report = await started.finish()
                            keep = False
                            await call.write(messages.progress_message(started, report))
                            return
                        case part:
                            raise invalid_field(part or "part", "must be data or finish")
                raise invalid_field(
                    "finish", "must come last: what was sent is kept, and the import can go on"
                )
            except ContexError as error:
                keep = error.reason not in _FINAL
                raise
            finally:
                await started.close(keep=keep)


_FINAL = {Reason.IMPORT_MALFORMED, Reason.PROJECT_NOT_EMPTY}
"""Sending the rest again can't mend these."""
