"""A server: the rooms, the API on them, and the edge that calls come in by."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from typing import Any, Self

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from contex_server.access.bootstrap import (
    ADMIN_KEY_FILE,
    FirstKey,
    ensure_admin_key,
    warn_of_gaps,
)
from contex_server.access.rules import rule_of
from contex_server.api.access.servicer import AccessServicer
from contex_server.api.agents.servicer import AgentServicer
from contex_server.api.audit.servicer import AuditServicer
from contex_server.api.events.servicer import EventServicer
from contex_server.api.match.servicer import MatchServicer
from contex_server.api.projects.servicer import ProjectServicer
from contex_server.api.server.servicer import ServerServicer
from contex_server.api.shared.servicer import Servicer
from contex_server.api.state.servicer import StateServicer
from contex_server.api.transfer.servicer import TransferServicer
from contex_server.edge.chain import Calls, links, require_agent, require_project
from contex_server.edge.grpc import handlers
from contex_server.edge.intake import Intake
from contex_server.edge.metrics import CallCounts, CallMetrics
from contex_server.edge.quota import QuotaLink
from contex_server.edge.reflection import add_reflection
from contex_server.edge.tls import Tls
from contex_server.kernel.config import Settings
from contex_server.kernel.drain import Drain
from contex_server.kernel.errors import ContexError, StartupError
from contex_server.matching.embedders.port import Embedder
from contex_server.projects.room import retention_store, usage_reader
from contex_server.projects.usage import UsageMonitor
from contex_server.projects.usage_metrics import UsageMetrics
from contex_server.quota.limits import LimitsOf
from contex_server.rooms import Rooms, open_rooms
from contex_server.tiers.storage import connect_store

log = structlog.get_logger(__name__)

SERVICERS: tuple[type[Servicer], ...] = (
    EventServicer,
    AgentServicer,
    MatchServicer,
    StateServicer,
    AuditServicer,
    ProjectServicer,
    TransferServicer,
    ServerServicer,
    AccessServicer,
)
"""The services of the API: the only list of them."""
LOG_HEALTH = "contex.log"
"""Health of the logs, by the name of a service: whether none has lost what is in its archive."""
_STORE_CHECK_S = 1.0
_PING_AFTER_MS = 60_000
_PING_TIMEOUT_MS = 20_000


class Server:
    """A running server, on a store that is running already."""

    rooms: Rooms

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.port = 0
        self.client_port = 0
        self.drain = Drain()
        self.calls = Calls(self.drain)
        self.counts = CallCounts()
        self.intake = Intake(settings.request_bytes)
        self._services: tuple[str, ...] = ()
        self._stack = AsyncExitStack()
        self._health = health.aio.HealthServicer()

    @classmethod
    async def start(
        cls,
        settings: Settings,
        store_url: str,
        *,
        embedder: Embedder | None = None,
        previous: tuple[Embedder, ...] = (),
        quotas: LimitsOf | None = None,
    ) -> Self:
        """Builds the server and returns when it serves.

        Args:
            settings: Its settings.
            store_url: The store.
            embedder: The configured model, loaded already; None loads it.
            previous: Loaded models that may still serve some projects.
            quotas: What tenants may use; None: as their records say.

        Raises:
            StartupError: The store can't be reached, the port is taken, or the like.
        """
        self = cls(settings)
        try:
            self.rooms = await open_rooms(
                settings, store_url, self._stack, embedder, previous, quotas
            )
            await self._serve()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def _serve(self) -> None:
        settings = self.settings
        services = [(kind.SERVICE, kind(settings, self.rooms, self.drain)) for kind in SERVICERS]
        methods = [method for kind in SERVICERS for method in kind.SERVICE.methods]
        self.rooms.access.rules.update({method.name: rule_of(method) for method in methods})
        self._services = tuple(service.full_name for service, _ in services)
        self._grpc = grpc.aio.server(options=_options(settings))
        exists = partial(require_project, existence=self.rooms.projects.existence)
        matchers, deciders = self.rooms.match.pool, self.rooms.inbox.deciders
        expiry = self.rooms.agents.expiry
        self.counts.watch(
            {
                "contex_matchers_evicted": lambda: matchers.evicted,
                "contex_agents_expired": lambda: expiry.expired,
            },
            {
                "contex_matchers": lambda: len(matchers),
                "contex_deciding_projects": lambda: len(deciders),
                "contex_agents_behind": lambda: deciders.agents_behind,
                "contex_undecided_seconds": lambda: deciders.lag_s,
                "contex_matcher_bytes": lambda: matchers.nbytes,
                "contex_scans_waiting": lambda: matchers.engine.scans.waiting,
                "contex_projects_refused": lambda: len(self._refused),
            },
        )
        sees = partial(require_agent, agents=self.rooms.storage.store.agents)
        keeper, directory = self.rooms.quota.keeper, self.rooms.access.directory
        quota = QuotaLink(keeper, lambda call: directory.policy.tenant_name(call.principal))
        chain = links(
            self.calls,
            self.counts,
            self.rooms.audit.writer,
            self.intake,
            self.rooms.access,
            exists,
            sees,
            quota,
        )
        self.counts.quotas = keeper.totals
        self.counts.budgets = {
            "large requests": self.intake.large,
            "small requests": self.intake.small,
            "pages": self.rooms.storage.log.reading,
            "indexes of the past": self.rooms.match.past.large,
            "small indexes of the past": self.rooms.match.past.small,
        }
        most = settings.limits.response_message_bytes
        certificates = settings.tls_client_ca is not None
        self._grpc.add_generic_rpc_handlers(
            handlers(services, chain, self.intake, most, certificates)
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        add_reflection((*self._services, health.SERVICE_NAME), self._grpc)
        self._listen()
        await self._grpc.start()
        await self._set_health(serving=True)
        watch = asyncio.create_task(self._watch_store(), name="contex-store-watch")
        self._stack.callback(watch.cancel)
        log.info("serving", host=settings.host, port=self.port, **self._security())

    def _listen(self) -> None:
        settings = self.settings
        tls = Tls.of(settings)
        if tls is None:
            self.port = self._bind(settings.port, None)
            return
        self.counts.certificate = tls.expires_s
        watch = asyncio.create_task(tls.watch(), name="contex-tls-watch")
        self._stack.callback(watch.cancel)
        apart = settings.tls_client_port is not None
        required = settings.tls_client_ca is not None and not apart
        self.port = self._bind(settings.port, tls.credentials(client_certificates=required))
        if settings.tls_client_port is not None:
            credentials = tls.credentials(client_certificates=True)
            self.client_port = self._bind(settings.tls_client_port, credentials)

    def _bind(self, port: int, credentials: grpc.ServerCredentials | None) -> int:
        settings = self.settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"{host}:{port}"
        try:
            if credentials is None:
                return self._grpc.add_insecure_port(address)
            return self._grpc.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise StartupError(f"can't listen on {address}: {error}") from error

    def _security(self) -> dict[str, Any]:
        """What the log says of the ports besides."""
        if not self.settings.tls:
            return {}
        return {"tls": True} | ({"client_port": self.client_port} if self.client_port else {})

    async def stop(self) -> None:
        """Not serving; streams end with a final cursor; calls finish; the store last."""
        grace = self.settings.shutdown_grace_s
        await self._health.enter_graceful_shutdown()
        self.drain.start()
        stopping = asyncio.create_task(self._grpc.stop(grace))
        if not await self.calls.finished(grace):
            log.warning("calls_cancelled", calls=self.calls.active, after_s=grace)
        await stopping
        await self.calls.finished(1.0)
        await self._stack.aclose()
        log.info("stopped")

    async def _watch_store(self) -> None:
        """Health says whether the store would take a write."""
        serving = True
        while True:
            await asyncio.sleep(_STORE_CHECK_S)
            try:
                await self.rooms.storage.store.events.probe()
                reached = True
            except ContexError:
                reached = False
            if reached != serving and not self.drain.started:
                serving = reached
                log.warning("store_reachable" if reached else "store_unreachable")
                await self._set_health(serving=serving)
            elif not self.drain.started:
                await self._health.set(LOG_HEALTH, _status(serving and not self._refused))

    async def _set_health(self, *, serving: bool) -> None:
        for name in ("", *self._services):
            await self._health.set(name, _status(serving))
        await self._health.set(LOG_HEALTH, _status(serving and not self._refused))

    @property
    def _refused(self) -> set[str]:
        """The projects of which the archive has more than the store."""
        admission = self.rooms.projects.admission
        return set() if admission is None else admission.refused


async def first_key(settings: Settings, store_url: str) -> FirstKey | None:
    """Sees to it that there is an administrator, whose key is in a file; the key, if it is new.

    Raises:
        StartupError: The file or the store can't be used.
    """
    if not settings.access:
        return None
    path, secret = settings.admin_key_file, None
    if path is None and settings.redis_url is None:
        path = settings.data_dir / ADMIN_KEY_FILE
    store = await connect_store(settings, store_url)
    try:
        if path is not None:
            secret = await ensure_admin_key(store.access, path)
        await warn_of_gaps(store.access)
    finally:
        await store.events.close()
    return None if path is None or secret is None else FirstKey(path, secret)


@asynccontextmanager
async def monitored(settings: Settings, store_url: str) -> AsyncIterator[CallMetrics]:
    """Watches what all projects use and logs it; serves that and the counts of calls as metrics
    where a port for them is set. One process does it, however many serve."""
    store = await connect_store(settings, store_url)
    metrics, calls = UsageMetrics(), CallMetrics()
    usage = usage_reader(settings, store, retention_store(settings, store))
    watch = asyncio.create_task(UsageMonitor(store.projects, usage, metrics.used).run())
    try:
        if settings.metrics_port is None:
            yield calls
            return
        with ExitStack() as stack:
            try:
                stack.enter_context(metrics.served(settings.host, settings.metrics_port, calls))
            except OSError as error:
                where = f"{settings.host}:{settings.metrics_port}"
                raise StartupError(f"can't serve metrics on {where}: {error}") from error
            yield calls
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await store.events.close()


def _status(serving: bool) -> int:
    status = health_pb2.HealthCheckResponse
    return status.SERVING if serving else status.NOT_SERVING


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.limits.message_bytes),
        ("grpc.max_send_message_length", -1),
        # Without these, some of thousands of clients that connect at once are refused.
        ("grpc.server.max_pending_requests", 20_000),
        ("grpc.server.max_pending_requests_hard_limit", 30_000),
        # Idle clients may ping this often; with the default, 5 minutes, they are cut off.
        ("grpc.http2.min_ping_interval_without_data_ms", settings.limits.ping_interval_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        # Dead clients are noticed, and their streams' memory freed, 80 s after their last byte.
        ("grpc.keepalive_time_ms", _PING_AFTER_MS),
        ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
        # Where it is longer than that timeout, this one counts; by default it is a minute.
        ("grpc.http2.ping_timeout_ms", _PING_TIMEOUT_MS),
        # The port is reserved already; see _reserved_port.
        ("grpc.so_reuseport", 1),
    ]
