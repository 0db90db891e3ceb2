"""ServerService: what clients have to know of the server."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec

from contex.v1 import server_service_pb2 as pb

from contex_server.api.shared import fields
from contex_server.api.shared.convert import convert
from contex_server.api.shared.servicer import Servicer
from contex_server.kernel.call import Call

API_REVISION = 5
"""Grows with every addition to `protos/`; `tests/unit/api/test_revision.py` tells when it must."""


class ServerServicer(Servicer):
    SERVICE = pb.DESCRIPTOR.services_by_name["ServerService"]

    async def get_server_info(
        self, request: pb.GetServerInfoRequest, call: Call
    ) -> pb.GetServerInfoResponse:
        settings, limits = self._settings, self._limits
        shortest, longest = limits.heartbeat_ms
        return pb.GetServerInfoResponse(
            version=version("contex-server"),
            api_revision=API_REVISION,
            limits=convert(
                pb.ServerLimits,
                limits,
                request_message_bytes=limits.message_bytes,
                project_chars=fields.project.high,
                data_key_chars=fields.data_key.high,
                event_type_chars=fields.event_type.high,
                publisher_chars=fields.publisher.high,
                request_id_chars=fields.request_id.high,
                agent_id_chars=fields.agent_id.high,
                subject_chars=fields.subject.high,
                glob_chars=fields.key_glob.high,
            ),
            request_window_seconds=settings.request_window_s,
            min_ping_interval_ms=limits.ping_interval_ms,
            heartbeat_interval_ms=settings.heartbeat_interval_ms,
            min_heartbeat_interval_ms=shortest,
            max_heartbeat_interval_ms=longest,
            features=self._features(),
        )

    def _features(self) -> Iterator[pb.Feature.ValueType]:
        yield pb.FEATURE_MATCHING
        yield pb.FEATURE_AUDIT
        if self._settings.delivery_records:
            yield pb.FEATURE_DELIVERIES
        if self._rooms.storage.archive is not None:
            yield pb.FEATURE_ARCHIVE
        if self._rooms.storage.sealer.can_seal:
            yield pb.FEATURE_SEALING
        if find_spec("pyarrow") is not None:
            yield pb.FEATURE_PARQUET
