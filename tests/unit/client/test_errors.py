from __future__ import annotations

import pickle

import contex
import grpc
import pytest

from tests.unit.client.fakes import rich_status, trailers


class FailedCall(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, message: str, metadata: object = None) -> None:
        self._answer = (code, message, metadata)

    def code(self) -> grpc.StatusCode:
        return self._answer[0]

    def details(self) -> str:
        return self._answer[1]

    def trailing_metadata(self) -> object:
        return self._answer[2]


def test_everything_the_server_says_is_there() -> None:
    status = rich_status(
        grpc.StatusCode.FAILED_PRECONDITION,
        "no",
        reason="REVISION_CONFLICT",
        metadata={"data_key": "k", "actual_revision": "7"},
        retry_after=1.5,
        violations=(("events[0].data_key", "too long"),),
    )
    failed = FailedCall(grpc.StatusCode.FAILED_PRECONDITION, "no", trailers(status))
    error = contex.from_rpc_error(failed)
    assert type(error) is contex.RevisionConflict
    assert (error.data_key, error.actual_revision) == ("k", 7)
    assert (error.code, error.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "REVISION_CONFLICT",
    )
    assert error.retry_after == 1.5
    assert error.violations == (("events[0].data_key", "too long"),)
    assert error.__cause__ is failed
    assert str(error) == "REVISION_CONFLICT: no"


def test_a_trimmed_position_tells_where_to_start() -> None:
    code = grpc.StatusCode.OUT_OF_RANGE
    status = rich_status(code, reason="SEQUENCE_TRIMMED", metadata={"earliest_sequence": "5-0"})
    error = contex.from_rpc_error(FailedCall(code, "no", trailers(status)))
    assert isinstance(error, contex.SequenceTrimmed)
    assert isinstance(error, contex.OutOfRange)
    assert error.earliest_sequence == "5-0"


def test_a_missing_datum_is_named() -> None:
    code = grpc.StatusCode.NOT_FOUND
    status = rich_status(code, reason="DATA_KEY_NOT_FOUND", metadata={"data_key": "k"})
    error = contex.from_rpc_error(FailedCall(code, "no", trailers(status)))
    assert isinstance(error, contex.DataKeyNotFound)
    assert isinstance(error, contex.NotFound)
    assert error.data_key == "k"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, contex.InvalidArgument),
        (grpc.StatusCode.NOT_FOUND, contex.NotFound),
        (grpc.StatusCode.UNAUTHENTICATED, contex.Unauthenticated),
        (grpc.StatusCode.PERMISSION_DENIED, contex.PermissionDenied),
        (grpc.StatusCode.FAILED_PRECONDITION, contex.FailedPrecondition),
        (grpc.StatusCode.OUT_OF_RANGE, contex.OutOfRange),
        (grpc.StatusCode.ABORTED, contex.Aborted),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, contex.ResourceExhausted),
        (grpc.StatusCode.UNAVAILABLE, contex.Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, contex.DeadlineExceeded),
        (grpc.StatusCode.INTERNAL, contex.Internal),
        (grpc.StatusCode.UNIMPLEMENTED, contex.Unimplemented),
        (grpc.StatusCode.DATA_LOSS, contex.DataLoss),
        (grpc.StatusCode.UNKNOWN, contex.ContexError),
    ],
)
@pytest.mark.parametrize(
    "metadata",
    [None, (), (("grpc-status-details-bin", b"\xff\xff"),), (("x", "y"),)],
)
def test_without_details_the_code_decides(
    code: grpc.StatusCode, expected: type, metadata: object
) -> None:
    error = contex.from_rpc_error(FailedCall(code, "no", metadata))
    assert type(error) is expected
    reason = "SERVER_UNREACHABLE" if code is grpc.StatusCode.UNAVAILABLE else ""
    assert (error.reason, error.metadata, error.retry_after) == (reason, {}, None)
    assert str(error) == f"{reason or code.name}: no"


def test_unavailable_always_has_a_reason() -> None:
    assert contex.Unavailable("the server ended the stream").reason == "SERVER_UNREACHABLE"
    assert contex.Unavailable("no", reason="SHUTTING_DOWN").reason == "SHUTTING_DOWN"


def test_errors_survive_pickling() -> None:
    error = contex.RevisionConflict(
        "no", grpc.StatusCode.FAILED_PRECONDITION, "REVISION_CONFLICT", {"actual_revision": "2"}
    )
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.actual_revision, str(copy)) == (type(error), 2, str(error))


@pytest.mark.parametrize(
    ("reason", "code", "expected", "properties"),
    [
        ("UNAUTHENTICATED", "UNAUTHENTICATED", contex.Unauthenticated, ["cause"]),
        (
            "PERMISSION_DENIED",
            "PERMISSION_DENIED",
            contex.PermissionDenied,
            ["identity", "method", "project"],
        ),
        ("ACCESS_CHANGED", "UNAVAILABLE", contex.AccessChanged, []),
        (
            "QUOTA_EXCEEDED",
            "RESOURCE_EXHAUSTED",
            contex.QuotaExceeded,
            ["limit", "tenant", "project"],
        ),
        ("ACCESS_NOT_FOUND", "NOT_FOUND", contex.AccessNotFound, ["kind", "name"]),
        ("ACCESS_IN_USE", "FAILED_PRECONDITION", contex.AccessInUse, ["kind", "name", "used_by"]),
    ],
)
def test_errors_of_access_have_what_they_are_about(
    reason: str, code: str, expected: type, properties: list[str]
) -> None:
    metadata = {name: f"the {name}" for name in properties} | {"value": "5"}
    status = rich_status(grpc.StatusCode[code], reason=reason, metadata=metadata)
    error = contex.from_rpc_error(FailedCall(grpc.StatusCode[code], "no", trailers(status)))
    assert type(error) is expected
    for name in properties:
        assert getattr(error, name) == f"the {name}"
    if isinstance(error, contex.QuotaExceeded):
        assert error.value == 5
