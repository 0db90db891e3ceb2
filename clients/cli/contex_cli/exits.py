"""How a command ends: its exit code, and the one line that says why."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contex import ContexError


class ExitCode(IntEnum):
    """Every exit code of `contex`, with what it means."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> ExitCode:
        code = int.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        return code

    OK = 0, "done; also: Ctrl-C or SIGTERM ended tail -f or listen"
    UNEXPECTED = 1, "unexpected error; serve: can't start; demo: a check did not hold"
    USAGE = 2, "wrong use of the command, a file that can't be used, or a setting out of its range"
    INVALID_ARGUMENT = 3, "refused as invalid; the message names each field"
    NOT_FOUND = 4, "no such project, agent, event, datum, revision, key, role, tenant"
    CONFLICT = 5, "conflict: somebody else changed the datum or the agent first"
    UNAVAILABLE = 6, "server or store unavailable, overloaded, too slow; or a limit; retry"
    OUT_OF_RANGE = 7, "the moment is no longer on record, or still to come"
    UNSUPPORTED = 8, "the server can't do this: it is older, or lacks an extra, archive or key"
    DAMAGED = 9, "what is kept is damaged, or differs from what it should be"
    NOT_ALLOWED = (
        10,
        "the project's state forbids it: legal hold, not empty, importing; or it is in use",
    )
    DENIED = 11, "no valid credentials, or no right to it"
    NOT_GRANTED = 12, "can: it is not allowed"
    INTERRUPTED = 130, "interrupted (Ctrl-C)"
    TERMINATED = 143, "terminated (SIGTERM)"


_OF_STATUS = {
    "INVALID_ARGUMENT": ExitCode.INVALID_ARGUMENT,
    "NOT_FOUND": ExitCode.NOT_FOUND,
    "UNAUTHENTICATED": ExitCode.DENIED,
    "PERMISSION_DENIED": ExitCode.DENIED,
    "FAILED_PRECONDITION": ExitCode.NOT_ALLOWED,
    "ABORTED": ExitCode.CONFLICT,
    "UNAVAILABLE": ExitCode.UNAVAILABLE,
    "DEADLINE_EXCEEDED": ExitCode.UNAVAILABLE,
    "RESOURCE_EXHAUSTED": ExitCode.UNAVAILABLE,
    "OUT_OF_RANGE": ExitCode.OUT_OF_RANGE,
    "UNIMPLEMENTED": ExitCode.UNSUPPORTED,
    "DATA_LOSS": ExitCode.DAMAGED,
}


_OF_REASON = {
    "REVISION_CONFLICT": ExitCode.CONFLICT,
    "ARCHIVE_DISABLED": ExitCode.UNSUPPORTED,
    "MASTER_KEY_MISSING": ExitCode.UNSUPPORTED,
    "KEY_UNAVAILABLE": ExitCode.UNSUPPORTED,
    "RESPONSE_TOO_LARGE": ExitCode.UNSUPPORTED,
}
"""Reasons whose status is too broad to tell the exit code."""


_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a disk says that is full or broken."""


class InputError(Exception):
    """What the user gave can't be used; `str()` says why in one line."""


class Unreached(Exception):
    """No server answers at a target; `str()` says so in one line."""


_NO_KEY = (
    "the server asks who you are, and no key was found: see contex login; or, on the server's "
    "machine, run this where its data directory is, or name that in CONTEX_DATA_DIR"
)


def exit_code(error: ContexError) -> ExitCode:
    """The exit code for a refusal of the server, or for not reaching it."""
    of_status = _OF_STATUS.get(error.code.name, ExitCode.UNEXPECTED)
    return _OF_REASON.get(error.reason, of_status)


def describe(error: ContexError, argument_of: Callable[[str], str] = lambda field: "") -> str:
    """One line: the message, the reason, and each field at fault.

    `argument_of` says which argument of the command stands for a field, where one does: people are
    told of that.
    """
    from contex_cli.targets import unreached

    def named(field: str) -> str:
        return argument_of(field) or field

    text = unreached(error) or error.message or error.code.name
    if error.reason == "UNAUTHENTICATED" and error.metadata.get("cause") == "MISSING":
        text = _NO_KEY
    if at_fault := re.match(r"([a-z_.\[\]0-9]+): ", text):
        text = f"{named(at_fault[1])}: {text[at_fault.end() :]}"
    if error.reason:
        text += f" [{error.reason}]"
    for field, problem in error.violations:
        if error.message not in (problem, f"{field}: {problem}"):
            text += f"; {named(field)}: {problem}"
    return " ".join(text.split())


def is_broken_pipe(error: BaseException) -> bool:
    """Whether all that went wrong is that nobody reads the output any more."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_broken_pipe, error.exceptions))
    return isinstance(error, BrokenPipeError)


def end_quietly() -> ExitCode:
    """The end of a command whose reader went away, as `| head` does."""
    _drop_output()
    return ExitCode.OK


def _drop_output() -> None:
    """The interpreter flushes stdout at exit, which would fail, and say so, once more."""
    with suppress(io.UnsupportedOperation):  # not a file: a test's
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def open_streams() -> bool:
    """Opens /dev/null in place of streams that were closed; returns whether stdout was open."""
    had_stdout = sys.stdout is not None
    if not had_stdout:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    return had_stdout


def complain(message: str) -> None:
    print(f"contex: {message}", file=sys.stderr)


def complain_about(
    error: BaseException, argument_of: Callable[[str], str] = lambda field: ""
) -> ExitCode:
    """Prints an error as one line, or as a trace with CONTEX_DEBUG=1; returns its exit code."""
    from contex import ContexError

    if os.environ.get("CONTEX_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    if isinstance(error, ContexError):
        complain(describe(error, argument_of))
        return exit_code(error)
    if isinstance(error, InputError | Unreached):
        complain(str(error))
        return ExitCode.USAGE if isinstance(error, InputError) else ExitCode.UNAVAILABLE
    if isinstance(error, OSError) and error.filename:
        complain(f"can't use {str(error.filename)!r}: {error.strerror}")
        return ExitCode.USAGE
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        _drop_output()
        complain(f"can't write: {error.strerror}")
        return ExitCode.USAGE
    first_line = next(iter(str(error).splitlines()), "")
    complain(f"{type(error).__name__}: {first_line} (CONTEX_DEBUG=1 shows where)")
    return ExitCode.UNEXPECTED
