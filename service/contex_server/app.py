"""The composition root: builds everything from the settings, and stops it in order."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import Self

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from contex_server import workers
from contex_server.agents.context import AgentContextReader
from contex_server.agents.delivery_recorder import DeliveryRecorder
from contex_server.agents.journal_reader import JournalReader
from contex_server.agents.registry import AgentRegistry
from contex_server.api.agents.servicer import AgentServicer
from contex_server.api.audit.servicer import AuditServicer
from contex_server.api.events.servicer import EventServicer
from contex_server.api.match.servicer import MatchServicer
from contex_server.api.projects.servicer import ProjectServicer
from contex_server.api.state.servicer import StateServicer
from contex_server.api.transfer.servicer import TransferServicer
from contex_server.audit.reader import AuditReader
from contex_server.audit.writer import AuditWriter
from contex_server.edge.chain import links
from contex_server.edge.drain import Calls
from contex_server.edge.grpc import Servicer, handlers
from contex_server.edge.metrics import CallCounts, CallMetrics
from contex_server.edge.refusals import Refusals
from contex_server.events.hub import Hub
from contex_server.events.presence import Presence
from contex_server.events.publisher import Publisher
from contex_server.kernel.config import EmbedderSettings, Settings
from contex_server.kernel.drain import Drain
from contex_server.kernel.errors import ContexError, StartupError
from contex_server.kernel.telemetry import configure_logging
from contex_server.log.embedded import EmbeddedValkey
from contex_server.log.redis.store import open_store
from contex_server.log.store import Store
from contex_server.match.backtest import BacktestRunner
from contex_server.match.feedback import Feedback
from contex_server.match.pool import MatcherPool
from contex_server.match.queries import MatchQueries
from contex_server.match.reembedding import Reembedding
from contex_server.matching.embedders import Embedder, ModelCorrupt, ModelInvalid, create
from contex_server.matching.embeddings import Embeddings
from contex_server.matching.models import Models
from contex_server.matching.score import Scorer
from contex_server.matching.tokens import token_counter
from contex_server.projects.archiver import Archiver
from contex_server.projects.erasure import Eraser
from contex_server.projects.pace import Pace
from contex_server.projects.recovery import Recovery
from contex_server.projects.removal import Removal
from contex_server.projects.retention import Retention, RetentionStore
from contex_server.projects.retention_admin import RetentionAdmin
from contex_server.projects.usage import UsageMonitor, UsageReader
from contex_server.projects.usage_metrics import UsageMetrics
from contex_server.projects.verification import Verification
from contex_server.state.history import HistoryReader
from contex_server.state.reader import StateReader
from contex_server.state.snapshot_cache import SnapshotCache
from contex_server.state.snapshotter import Snapshotter
from contex_server.tiers.archive import Archive
from contex_server.tiers.archived_keys import ArchivedKeys
from contex_server.tiers.master_keys import MasterKeys, create_key, read_key
from contex_server.tiers.objects import Objects
from contex_server.tiers.sealer import Sealer
from contex_server.tiers.tiers import compose
from contex_server.transfer.exporter import Exporter
from contex_server.transfer.importer import Importer

log = structlog.get_logger(__name__)

_STORE_CHECK_S = 1.0
_STORE_WAIT_S = 15.0
_DAY_S = 24 * 3600
_DAY_MS = _DAY_S * 1000


class Server:
    """A running server on a store that is running already."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.port = 0
        self.drain = Drain()
        self.calls = Calls(self.drain)
        self.counts = CallCounts()
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
    ) -> Self:
        """Builds the server and returns when it serves.

        Args:
            settings: Its settings.
            store_url: The store.
            embedder: A started model instead of the one that the settings name.
            previous: Started models that may still serve some projects.

        Raises:
            StartupError: The store can't be reached or the port is taken.
        """
        self = cls(settings)
        try:
            await self._build(store_url, embedder, previous)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def _build(
        self, store_url: str, embedder: Embedder | None, previous: tuple[Embedder, ...]
    ) -> None:
        # What is pushed first is closed last: the store outlives everything else.
        settings, stack = self.settings, self._stack
        store = self.store = await _open_store(settings, store_url)
        stack.push_async_callback(store.events.close)
        archive = self.archive = _open_archive(settings, store)
        if archive is not None:
            stack.push_async_callback(archive.close)
        sealer = Sealer(store.keys, _master_keys(settings))
        tiers = self.tiers = compose(store, archive, sealer)
        self.log = tiers.log
        models = await self._models(embedder, previous)
        stack.push_async_callback(models.close)
        embeddings = Embeddings(
            self.log, store.match, models, timeout_s=settings.embed_timeout_ms / 1000
        )
        self.hub = Hub(self.log, feed_bytes=settings.feed_bytes)
        stack.push_async_callback(self.hub.close)
        snapshots = SnapshotCache(tiers.snapshots, cache_bytes=settings.snapshot_cache_bytes)
        snapshotter = Snapshotter(
            self.log,
            store,
            snapshots,
            events=settings.snapshot_events,
            size=settings.snapshot_bytes,
        )
        stack.push_async_callback(snapshotter.close)
        states = StateReader(
            self.log,
            store.state,
            snapshots,
            cache_bytes=settings.snapshot_cache_bytes,
            on_long_fold=snapshotter.appended,
        )
        retentions = RetentionStore(store.projects, _default_retention(settings))
        appended = [snapshotter.appended]
        removal, archiver, keys = None, None, None
        pace = Pace(store.projects)
        stack.push_async_callback(pace.close)
        self.archiver: Archiver | None = None
        if archive is not None:
            removal = Removal(store, tiers.raw, archive, states)
            keys = ArchivedKeys(store.keys, archive.objects)
            archiver = Archiver(
                store,
                archive,
                keys,
                retentions,
                events=settings.segment_events,
                size=settings.segment_bytes,
                expire=removal.expire,
                pace=pace,
            )
            stack.push_async_callback(archiver.close)
            archiver.start()
            self.archiver = archiver
            appended.append(archiver.appended)
        retention = RetentionAdmin(store.projects, self.log, retentions, archiver, removal)
        usages = _usages(settings, store, retentions)
        eraser = Eraser(
            tiers.raw, store, sealer, retention, archive, archiver, keys, models.ids, *appended
        )
        recovery = None
        if archive is not None and archiver is not None and keys is not None:
            recovery = Recovery(store, archive, keys, sealer, archiver)
        verification = Verification(store, tiers, embeddings, archive, recovery)
        reembedding = Reembedding(self.log, store, embeddings)
        stack.push_async_callback(reembedding.close)
        self.matchers = MatcherPool(
            self.log,
            store.state,
            store.agents,
            self.hub,
            embeddings,
            Scorer(),
            feed_bytes=settings.feed_bytes,
            idle_s=settings.index_idle_s,
            on_model_in_use=reembedding.start_if_outdated,
        )
        stack.push_async_callback(self.matchers.close)
        try:
            counter = token_counter(settings.tokenizer)
        except ValueError as error:
            raise StartupError(str(error)) from error
        queries = MatchQueries(
            self.log,
            states,
            self.matchers,
            counter,
            answer_bytes=settings.limits.answer_bytes,
        )
        audit = AuditWriter(self.log, store.audit)
        stack.push_async_callback(audit.close)
        presence = Presence(store.presence)
        stack.push_async_callback(presence.close)
        recorder = DeliveryRecorder(store.journals, enabled=settings.delivery_records)
        stack.push_async_callback(recorder.close)
        agents = AgentRegistry(
            self.log,
            store.agents,
            embeddings,
            queries,
            recorder,
            default_threshold=settings.match_threshold,
        )
        journals = JournalReader(store.agents, store.journals)
        contexts = AgentContextReader(
            self.log,
            states,
            journals,
            queries,
            self.matchers,
            answer_bytes=settings.limits.answer_bytes,
        )
        publisher = Publisher(self.log, embeddings, sealer, pace.throttle, *appended)
        servicers: tuple[Servicer, ...] = (
            EventServicer(settings, self.log, publisher, self.hub, audit, presence, self.drain),
            AgentServicer(
                settings,
                self.log,
                agents,
                self.matchers,
                recorder,
                journals,
                contexts,
                presence,
                self.drain,
            ),
            MatchServicer(
                settings,
                self.log,
                store.match,
                agents,
                queries,
                BacktestRunner(self.log, states, self.matchers, queries),
                Feedback(self.log, store.agents, queries),
                self.matchers,
                reembedding,
                audit,
            ),
            StateServicer(
                settings,
                self.log,
                states,
                HistoryReader(self.log, store.state, snapshots),
                audit,
                self.drain,
            ),
            AuditServicer(
                AuditReader(self.log, store.audit, store.journals), audit, settings.limits
            ),
            ProjectServicer(
                self.log,
                store.projects,
                tiers.snapshots,
                retention,
                usages,
                eraser,
                verification,
                presence,
                settings.limits,
            ),
            TransferServicer(
                Exporter(self.log, store),
                Importer(
                    self.log,
                    store,
                    publisher,
                    sealer,
                    retentions,
                    archiver,
                    recovery,
                    *appended,
                ),
                audit,
                settings.limits,
            ),
        )
        self._services = tuple(servicer.SERVICE.full_name for servicer in servicers)
        self._grpc = grpc.aio.server(options=_options(settings))
        self._grpc.add_generic_rpc_handlers(
            handlers(servicers, links(self.calls, self.counts, Refusals(audit)))
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        reflection.enable_server_reflection(
            (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME), self._grpc
        )
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        try:
            self.port = self._grpc.add_insecure_port(f"{host}:{settings.port}")
        except RuntimeError as error:
            raise StartupError(f"can't listen on {host}:{settings.port}: {error}") from error
        await self._grpc.start()
        await self._set_health(serving=True)
        watch = asyncio.create_task(self._watch_store(), name="contex-store-watch")
        stack.callback(watch.cancel)
        log.info("serving", host=settings.host, port=self.port)

    async def _models(self, embedder: Embedder | None, given: tuple[Embedder, ...]) -> Models:
        """Starts the configured model, and those that may still serve some projects."""
        settings = self.settings
        if embedder is None:
            embedder = create(settings.embedder)
            self._stack.push_async_callback(embedder.close)
            await _start(embedder)
        others = list(given)
        previous = settings.previous_embedder
        if previous is not None and previous != settings.embedder:
            others.append(create(previous))
            self._stack.push_async_callback(others[-1].close)
            await _start(others[-1])
        if settings.embedder.kind != "builtin":
            # Its identity is known, and it is read when something has to be embedded with it.
            others.append(create(EmbedderSettings()))
            self._stack.push_async_callback(others[-1].close)
        return Models(embedder, tuple(others))

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
        """Health follows the store: without it nothing can be answered."""
        serving = True
        while True:
            await asyncio.sleep(_STORE_CHECK_S)
            try:
                await self.log.ping()
                reached = True
            except ContexError:
                reached = False
            if reached != serving and not self.drain.started:
                serving = reached
                log.warning("store_reachable" if reached else "store_unreachable")
                await self._set_health(serving=serving)

    async def _set_health(self, *, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        for name in ("", *self._services):
            await self._health.set(name, status.SERVING if serving else status.NOT_SERVING)


async def _start(embedder: Embedder) -> None:
    try:
        await embedder.start()
    except (ModelInvalid, ModelCorrupt, OSError) as error:
        raise StartupError(f"the embedding model can't be used: {error}") from error


def _archive_url(settings: Settings) -> str | None:
    url = settings.archive_url
    if url is None and settings.redis_url is None:
        url = (settings.data_dir / "archive").resolve().as_uri()
    return None if url == "none" else url


def _open_archive(settings: Settings, store: Store) -> Archive | None:
    url = _archive_url(settings)
    if url is None:
        return None
    try:
        objects = Objects.open(url)
    except (ValueError, OSError) as error:
        raise StartupError(f"the archive can't be used: {error}") from error
    return Archive(store.archive, objects, cache_bytes=settings.archive_cache_bytes)


def _master_keys(settings: Settings) -> MasterKeys | None:
    try:
        if settings.master_key_file is not None:
            current = read_key(settings.master_key_file)
        elif settings.redis_url is None:
            current = create_key(settings.data_dir / "master.key")
        else:
            return None
        previous = settings.previous_master_key_file
        return MasterKeys(current, [] if previous is None else [read_key(previous)])
    except (ValueError, OSError) as error:
        raise StartupError(f"the master key can't be used: {error}") from error


def _default_retention(settings: Settings) -> Retention:
    return Retention(
        store_seconds=int(settings.store_days * _DAY_S),
        store_events=settings.store_events,
        store_bytes=settings.store_bytes,
        archive_seconds=int(settings.archive_days * _DAY_S),
    )


def _usages(settings: Settings, store: Store, retentions: RetentionStore) -> UsageReader:
    return UsageReader(
        store,
        retentions,
        archived=_archive_url(settings) is not None,
        segment_events=settings.segment_events,
        segment_bytes=settings.segment_bytes,
    )


@asynccontextmanager
async def _watched(settings: Settings, store_url: str) -> AsyncIterator[CallMetrics]:
    """Watches what all projects use and logs it; serves that and the counts of calls as metrics
    where a port for them is set. One process does it, however many serve."""
    store = await _open_store(settings, store_url)
    metrics, calls = UsageMetrics(), CallMetrics()
    usages = _usages(settings, store, RetentionStore(store.projects, _default_retention(settings)))
    watch = asyncio.create_task(UsageMonitor(store.projects, usages, metrics.used).run())
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


async def _open_store(settings: Settings, store_url: str) -> Store:
    deadline = asyncio.get_running_loop().time() + _STORE_WAIT_S
    while True:
        try:
            return await open_store(
                store_url,
                request_window_s=settings.request_window_s,
                replication_timeout_ms=settings.replication_timeout_ms,
                max_pending=settings.pending_appends,
                audit_retention_ms=settings.audit_retention_days * _DAY_MS,
                delivery_retention_ms=settings.delivery_retention_days * _DAY_MS,
                journal_entries=settings.journal_entries,
            )
        except ContexError as error:
            if asyncio.get_running_loop().time() > deadline:
                raise StartupError(error.message) from error
            await asyncio.sleep(0.25)
        except ValueError as error:
            raise StartupError(str(error)) from error


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.limits.message_bytes),
        ("grpc.max_send_message_length", -1),
        # Without these, some of thousands of clients that connect at once are refused.
        ("grpc.server.max_pending_requests", 20_000),
        ("grpc.server.max_pending_requests_hard_limit", 30_000),
        # Idle clients may ping this often; with the default, 5 minutes, they are cut off.
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Dead clients are noticed, and their streams' memory freed.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # The port is reserved already; see _reserved_port.
        ("grpc.so_reuseport", 1),
    ]


def _calm_garbage_collector() -> None:
    """Fits Python's cycle collector to a process that holds much and makes many tuples.

    Reading a page of the log makes thousands of containers, none of them in a cycle, and
    by default every 700 of them start a collection: that was 45 % of a replay's processor
    time. What was loaded at the start stays for ever and need not be looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


async def serve_worker(settings: Settings, store_url: str, lifeline: workers.Lifeline) -> None:
    """Serves until the lifeline ends; what a worker process runs."""
    configure_logging(settings.log_level, settings.log_format)
    server = await Server.start(settings, store_url)
    _calm_garbage_collector()
    lifeline.ready()
    await lifeline.report_until_ended(server.counts.totals)
    await server.stop()


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    serving = False
    task = asyncio.current_task()
    assert task is not None

    def end() -> None:
        if not serving and not stop.is_set():
            task.cancel()  # A start may take long: a large log, a store that is away.
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    async with AsyncExitStack() as stack:
        # First what fails at once: a port in use.
        port = stack.enter_context(_reserved_port(settings))
        settings = settings.model_copy(update={"port": port})
        store_url = settings.redis_url
        if store_url is None:
            valkey = EmbeddedValkey(settings.data_dir)
            stack.push_async_callback(valkey.stop)
            await valkey.start()
            store_url = valkey.url
        metrics = await stack.enter_async_context(_watched(settings, store_url))
        if settings.workers > 1:
            serving = True
            await workers.supervise(serve_worker, settings, store_url, stop, metrics.reported)
            return
        server = await Server.start(settings, store_url)
        metrics.follow(server.counts)
        stack.push_async_callback(server.stop)
        _calm_garbage_collector()
        serving = True
        await stop.wait()


@contextmanager
def _reserved_port(settings: Settings) -> Iterator[int]:
    """Holds the port for this server's processes: refused if taken, chosen if it is 0."""
    host = settings.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    port = settings.port
    try:
        # Alone first: processes of one server share the port, strangers don't.
        with socket.socket(family, socket.SOCK_STREAM) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind((host, port))
            port = alone.getsockname()[1]
        shared = socket.socket(family, socket.SOCK_STREAM)
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared.bind((host, port))
    except OSError as error:
        raise StartupError(f"can't listen on {host}:{port}: {error}") from error
    with shared:
        yield port


def serve(settings: Settings) -> int:
    """Runs a server until SIGTERM or SIGINT; returns the process's exit code.

    Raises:
        StartupError: It can't start, and an operator can mend it.
    """
    configure_logging(settings.log_level, settings.log_format)
    try:
        asyncio.run(_serve(settings))
    except asyncio.CancelledError:
        log.info("stopped", during="start")
    except ContexError as error:
        raise StartupError(error.message) from error
    return 0
