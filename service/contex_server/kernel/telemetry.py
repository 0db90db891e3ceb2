"""Structured logs on standard error: readable lines on a terminal, JSON elsewhere.

Whatever is logged, here or by a library, passes `clean`: the one place that keeps payloads, keys
and passwords out of the log, and bounds what a single record takes.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import threading
from collections.abc import Iterable, Iterator, MutableMapping
from itertools import islice
from traceback import walk_tb
from types import TracebackType
from typing import Any, Literal

import structlog

from contex_server.kernel.errors import ContexError, StartupError

log = structlog.get_logger(__name__)

# A record has at most this many fields of this many characters, and this many errors with this
# many frames: the failure of a call, which makes one record, takes some 2 KiB and never 16.
_TEXT_CHARS = 1_000
_FIELDS = 16
_ITEMS = 8
_ITEM_CHARS = 100
_NAME_CHARS = 100
_ERRORS = 4
_FRAMES = 12
_LIBRARY_CHARS = 200

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_USERINFO = re.compile(r"(?<=://)[^\s'\"<>]{0,1000}@")
_CREDENTIAL = re.compile(
    r"(?i)(\bbearer\s+|\b[\w-]{0,40}(?:password|passwd|secret|token(?!s)|signature|credential|api[-_]?key)"
    r"[\w-]*['\"]?\s*[=:]\s*|[?&]sig=|\bauthorization['\"]?\s*[=:,]\s*)"
    r"(?:b?['\"])?(?:(?:bearer|basic)\s+)?['\"]?[^\s&,;'\"]+"
)
_TOKEN = re.compile(r"\bctx_[\w-]{16,}|\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*")
"""Keys of the API, and JSON Web Tokens, wherever they stand."""
_QUOTED = re.compile(r"'.*'|\".*\"|`.*`")
_SHORTEST_SECRET, _LONGEST_SECRET = 6, 4_096
"""Shorter ones would be found in every other word."""
_secrets: frozenset[str] = frozenset()


def configure_logging(
    level: str, log_format: Literal["auto", "json", "console"], secrets: Iterable[str] = ()
) -> None:
    """Sets up logging for the process.

    Args:
        level: The lowest level that is logged.
        log_format: How; auto is console on a terminal.
        secrets: Passwords and keys of the settings, which are never logged.
    """
    global _secrets
    _secrets = frozenset(secret for secret in secrets if len(secret) >= _SHORTEST_SECRET)
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        clean,
    ]
    if console:
        colors = sys.stderr.isatty()
        processors += [_as_text, structlog.dev.ConsoleRenderer(colors=colors)]
    else:
        processors.append(structlog.processors.JSONRenderer())
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_OfLibraries()], force=True)
    threading.excepthook = _thread_failed
    sys.unraisablehook = lambda told: _uncaught(told.exc_value)


def clean(_logger: Any, _method: str, record: MutableMapping[str, Any]) -> dict[str, Any]:
    """Bounds a record and takes out what must not be in a log; a processor of structlog.

    Of an error stay its types, where it was raised, and the messages of the errors that Contex
    writes itself: another's may quote any value, and so may a frame's local variables.
    """
    error = record.pop("exc_info", None)
    cleaned = {
        str(name)[:_NAME_CHARS]: _value(value) for name, value in islice(record.items(), _FIELDS)
    }
    if error:
        error = error if isinstance(error, BaseException) else _current(error)
        if error is not None:
            cleaned["exception"] = [_told(each) for each in islice(_causes(error), _ERRORS)]
    return cleaned


def cleaned_text(text: str, chars: int = _TEXT_CHARS) -> str:
    """A text without passwords and keys, and no longer than `chars`."""
    # Patterns look at a bounded part: they would take long on a text of megabytes.
    shown = text[: chars + _LONGEST_SECRET]
    for secret in _secrets:
        shown = shown.replace(secret, "***")
    shown = _CREDENTIAL.sub(r"\1***", _USERINFO.sub("***@", _CONTROL.sub(" ", shown)))
    if "ctx_" in shown or "eyJ" in shown:
        shown = _TOKEN.sub("***", shown)
    if len(text) <= chars:
        return shown[:chars]
    return f"{shown[:chars]}… ({len(text)} characters)"


def shown_url(url: str) -> str:
    """A URL without what may be a password, however it is written: what comes before the last "@",
    and what comes after a "?" or "#"."""
    before, found, rest = url.rpartition("@")
    scheme = re.match(r"[a-z0-9+]{2,16}:/+", before)
    start = f"{scheme[0] if scheme else ''}***@" if found else ""
    return cleaned_text(start + re.split(r"[?#]", rest, maxsplit=1)[0])


def loop_failed(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """asyncio's handler of what nobody else handles, such as the failure of a forgotten task.

    Its own would log the `repr` of the task, and with it of the error.
    """
    task = context.get("task") or context.get("future")
    name = task.get_name() if isinstance(task, asyncio.Task) else ""
    log.error(
        "task_failed", problem=context["message"], task=name, exc_info=context.get("exception")
    )


class _OfLibraries(logging.Handler):
    """Logs what libraries log: their text as it stands in their code, without what they fill in."""

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        text = str(record.msg) if isinstance(record.msg, str | Exception) else ""
        if not record.args:  # Filled in already: values are mostly quoted, or on further lines.
            text = _QUOTED.sub("'…'", text[: 2 * _LIBRARY_CHARS].partition("\n")[0])
        problem = cleaned_text(text, _LIBRARY_CHARS)
        where = f"{record.name}:{record.lineno}"
        log.log(record.levelno, "library", problem=problem, where=where, exc_info=record.exc_info)


def _thread_failed(told: threading.ExceptHookArgs) -> None:
    if not isinstance(told.exc_value, SystemExit):
        _uncaught(told.exc_value)


def _uncaught(error: BaseException | None) -> None:
    log.critical("uncaught", exc_info=error)


def _current(exc_info: Any) -> BaseException | None:
    return exc_info[1] if isinstance(exc_info, tuple) else sys.exc_info()[1]


def _value(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return cleaned_text(str(value))
    if isinstance(value, list | tuple):
        return [cleaned_text(str(each), _ITEM_CHARS) for each in value[:_ITEMS]]
    return f"<{type(value).__name__}>"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, those that it groups, and what caused it."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting.append(each.__cause__ if each.__suppress_context__ else each.__context__)
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions


def _told(error: BaseException) -> dict[str, Any]:
    kind = type(error)
    name = (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
    told: dict[str, Any] = {"type": name[:_NAME_CHARS]}
    if isinstance(error, ContexError | StartupError):
        told["message"] = cleaned_text(str(error), _TEXT_CHARS)
    elif isinstance(error, OSError) and error.errno is not None:
        told["message"] = f"[Errno {error.errno}] {str(error.strerror)[:_NAME_CHARS]}"
    told["frames"] = _frames(error.__traceback__)
    return told


def _frames(traceback: TracebackType | None) -> list[str]:
    """The innermost places of a traceback, outermost first."""
    places = [(frame.f_code, line) for frame, line in walk_tb(traceback)]
    return [
        f"{_place(code.co_filename)}:{line} {code.co_name}"[-_NAME_CHARS:]
        for code, line in places[-_FRAMES:]
    ]


def _place(path: str) -> str:
    """A file below the directory that packages are in."""
    return re.split(r"/(?:site-packages|service|python3\.\d+)/", path)[-1]


def _as_text(
    _logger: Any, _method: str, record: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """For a terminal: the errors as lines."""
    errors = record.pop("exception", ())
    lines = [
        line
        for error in errors
        for line in (
            f"{error['type']}: {error.get('message', '')}".rstrip(": "),
            *(f"  {frame}" for frame in error["frames"]),
        )
    ]
    return {**record, "exception": "\n".join(lines)} if lines else record
