"""Values of `contex.v1.ProjectService`: size, activity, retention, erasure, verification."""

from __future__ import annotations

from dataclasses import asdict

from ._values.projects import *
from .lazy import project_service_pb2, wire


def to_retention(retention: Retention) -> project_service_pb2.Retention:
    """The message for a retention; what is None is left unset."""
    return wire.message(project_service_pb2.Retention, **asdict(retention))
