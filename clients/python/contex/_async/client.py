"""The client: the methods of all services together."""

from __future__ import annotations

from contex.channel import HEALTH_CHECK, health_request, health_status

from .access import AsyncAccessService
from .agents import AsyncAgentService
from .audit import AsyncAuditService
from .events import AsyncEventService
from .match import AsyncMatchService
from .projects import AsyncProjectService
from .server import AsyncServerService
from .state import AsyncStateService
from .transfer import AsyncTransferService


class AsyncClient(
    AsyncEventService,
    AsyncAgentService,
    AsyncMatchService,
    AsyncStateService,
    AsyncAuditService,
    AsyncProjectService,
    AsyncTransferService,
    AsyncServerService,
):
    """A client of one Contex server, for asyncio.

    It opens one channel and keeps it; use it in an `async with`, or `close` it. Calls raise the
    exceptions of `contex.errors`.

    Several tasks may share it; a stream belongs to one.

    Args:
        target: The server: HOST:PORT, contexs://HOST:PORT for TLS, or another target of gRPC.
        publisher: Who is calling: recorded in each event that is published, and in the audit.
        timeout: Seconds for a call, all attempts together. Streams have no such limit.
        channel: A channel of your own; `close` leaves it open. Give it the
            options of `contex.channel_options`. See that it is encrypted if you send credentials.
        tls: Speak TLS, with these certificates. With contexs:// it may be left out.
        api_key: Proves who is calling. By default one is looked for: CONTEX_API_KEY, then the file
            that CONTEX_API_KEY_FILE names, then what `contex login` stored for the target, then
            `admin.key` of a server's data directory on this machine; for a channel of your own,
            none is. "" sends none.
        api_key_file: The file that has the key, instead; read again when the key in it may be
            another.
        token: A token (JWT) of an issuer that the server trusts, instead; or a function that
            returns a fresh one, which is called for each call.
        allow_plaintext_credentials: Whether these may be sent to another machine unencrypted; by
            default CONTEX_ALLOW_PLAINTEXT_CREDENTIALS says so.

    Raises:
        ValueError: The target is none, or the credentials may not be sent to it: then already
            here, or with the first call where they had to be looked for.

    Moments and ranges:
        A place in a project's log is a sequence, or a time: RFC 3339 text with a zone, an aware
        `datetime`, or unix milliseconds. Questions about the past refuse one in the future
        (`TimeInFuture`, `OutOfRange`) or before what can still be read (`SequenceTrimmed`,
        `RecordsExpired`). A range starts after a sequence or at a time, and includes its upper
        end. A datetime without a time zone is a ValueError.
    """

    @property
    def access(self) -> AsyncAccessService:
        """Who may do what, and how much: keys, bindings, roles, tenants, usage."""
        return AsyncAccessService(self)

    async def health(self, service: str = "") -> str:
        """Returns the health of the server, or of one of its services.

        Returns:
            `"SERVING"` or `"NOT_SERVING"`.

        Raises:
            Unavailable: The server can't be reached.
            NotFound: There is no such service.
            ValueError: The name is not Unicode text.
        """
        check = self._connection.channel.unary_unary(
            HEALTH_CHECK, request_serializer=bytes, response_deserializer=health_status
        )
        return await self._once(check, health_request(service))
