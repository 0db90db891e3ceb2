from __future__ import annotations

import grpc
import pytest
from contex import (
    Aborted,
    ContexError,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfRange,
    ResourceExhausted,
    Unavailable,
)
from contex_cli.commands import load
from contex_cli.exits import (
    ExitCode,
    InputError,
    complain_about,
    describe,
    exit_code,
)
from contex_cli.parameters import argument_of

_CODES: list[tuple[type[ContexError], grpc.StatusCode, ExitCode]] = [
    (InvalidArgument, grpc.StatusCode.INVALID_ARGUMENT, ExitCode.INVALID_ARGUMENT),
    (NotFound, grpc.StatusCode.NOT_FOUND, ExitCode.NOT_FOUND),
    (FailedPrecondition, grpc.StatusCode.FAILED_PRECONDITION, ExitCode.NOT_ALLOWED),
    (Aborted, grpc.StatusCode.ABORTED, ExitCode.CONFLICT),
    (Unavailable, grpc.StatusCode.UNAVAILABLE, ExitCode.UNAVAILABLE),
    (DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED, ExitCode.UNAVAILABLE),
    (ResourceExhausted, grpc.StatusCode.RESOURCE_EXHAUSTED, ExitCode.UNAVAILABLE),
    (OutOfRange, grpc.StatusCode.OUT_OF_RANGE, ExitCode.OUT_OF_RANGE),
    (Internal, grpc.StatusCode.INTERNAL, ExitCode.UNEXPECTED),
    (ContexError, grpc.StatusCode.UNIMPLEMENTED, ExitCode.UNSUPPORTED),
    (ContexError, grpc.StatusCode.DATA_LOSS, ExitCode.DAMAGED),
    (ContexError, grpc.StatusCode.UNAUTHENTICATED, ExitCode.DENIED),
    (ContexError, grpc.StatusCode.PERMISSION_DENIED, ExitCode.DENIED),
]


@pytest.mark.parametrize(("kind", "status", "code"), _CODES)
def test_each_error_has_its_exit_code(
    kind: type[ContexError], status: grpc.StatusCode, code: ExitCode
) -> None:
    assert exit_code(kind("no", status)) is code


def test_the_codes_are_the_documented_numbers() -> None:
    assert [int(code) for code in ExitCode] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 130, 143]


def test_an_error_is_one_line_with_reason_and_fields() -> None:
    error = InvalidArgument(
        "the request\nis wrong",
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_FIELD",
        violations=[("project", "must not be empty"), ("data_key", "at most 256 characters")],
    )
    assert describe(error) == (
        "the request is wrong [INVALID_FIELD]; project: must not be empty; "
        "data_key: at most 256 characters"
    )


def test_what_the_message_says_is_not_said_twice() -> None:
    error = InvalidArgument(
        "project: must not be empty",
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_FIELD",
        violations=[("project", "must not be empty")],
    )
    assert describe(error) == "project: must not be empty [INVALID_FIELD]"


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (InputError("can't read it"), ExitCode.USAGE, "contex: can't read it\n"),
        (
            RuntimeError("first\nsecond"),
            ExitCode.UNEXPECTED,
            "contex: RuntimeError: first (CONTEX_DEBUG=1 shows where)\n",
        ),
        (KeyError(), ExitCode.UNEXPECTED, "contex: KeyError:  (CONTEX_DEBUG=1 shows where)\n"),
    ],
)
def test_complaining_is_one_line(
    error: Exception, code: ExitCode, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complain_about(error) is code
    assert capsys.readouterr().err == told


def test_a_trace_is_shown_on_demand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONTEX_DEBUG", "1")
    try:
        raise RuntimeError("inside")
    except RuntimeError as error:
        complain_about(error)
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "field", "typed"),
    [
        ("explain", "agent_need.need", "--need"),
        ("explain", "agent_need.agent_id", "--agent"),
        ("explain", "text", "NEED"),
        ("explain", "data_key", "KEY"),
        ("match", "questions[1].text", "QUESTION 2"),
        ("match", "max_context_tokens", "--max-tokens"),
        ("register", "needs[1].text", "--need 2"),
        ("register", "needs[0].exclude_data_keys[1]", "--exclude 2"),
        ("register", "needs[0].filter.data_keys[1]", "--filter"),
        ("register", "min_delta.json_pointers[0]", "--min-delta-pointer 1"),
        ("publish", "events[0].payload", "VALUE|-|@FILE"),
        ("events", "filter.data_keys[1]", "--key 2"),
        ("activity", "bucket_seconds", "--bucket"),
        ("import", "start.redactions[0].json_pointer", "--redact"),
        ("retention set", "retention.store_seconds", "--store-days"),
        ("listen", "cursor", "--after"),
        ("health", "data_key", ""),
    ],
)
def test_people_are_told_of_what_they_typed(command: str, field: str, typed: str) -> None:
    assert argument_of(load(command), field) == typed


def test_each_field_is_told_of_once_by_what_was_typed() -> None:
    error = InvalidArgument(
        "agent_need.need: is missing",
        grpc.StatusCode.INVALID_ARGUMENT,
        violations=[("agent_need.need", "is missing"), ("need", "is missing")],
    )
    told = {"need": "NEED", "agent_need.need": "--need"}
    assert describe(error, told.__getitem__) == "--need: is missing; NEED: is missing"
