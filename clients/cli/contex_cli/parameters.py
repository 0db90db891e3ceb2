"""What a command takes: options and arguments, declared in its signature and read by click.

A parameter has a type, and an `option` or `argument` as its default:

    limit: int = option(100, "At most this many; 0: all.", "--limit", "-n", minimum=0)

A parameter whose type is a dataclass of such fields stands for all of them: options that several
commands share are declared once. See docs/adr/0018-a-command-line-that-starts-fast.md.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

import click

_OTHER_NAMES = {
    "max_matches": ("top",),
    "data_keys": ("keys",),
    "data_key": ("second", "key"),
    "text": ("first",),
    "need": ("need_text", "first"),
    "exclude_data_keys": ("exclude",),
    "filter": ("filters",),
    "json_pointers": ("pointers",),
    "max_context_tokens": ("max_tokens",),
    "context_format": ("written",),
    "last_seen_sequence": ("last_seen",),
    "cursor": ("after",),
    "after_sequence": ("after",),
    "payload": ("value",),
    "dimension": ("by",),
    "bucket_seconds": ("bucket",),
    "format": ("file_format",),
    "store_seconds": ("store_days",),
    "archive_seconds": ("archive_days",),
    "remap_keys": ("remap",),
    "json_pointer": ("redact",),
    "replacement": ("redact_with",),
}
"""Of fields of requests: parameters of some commands that are called otherwise."""


class UsageError(click.BadParameter):
    """Wrong options or arguments: the problem in one line, and the parameter at fault."""

    def __init__(self, problem: str, parameter: str | None = None) -> None:
        super().__init__(problem, param_hint=parameter)


class Parsed(click.ParamType[Any]):
    """The value is what `parse` makes of the text; its ValueErrors say what is wrong."""

    def __init__(self, parse: Callable[[str], Any]) -> None:
        self.name = "text"
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):  # a default
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Chosen(click.Choice[str]):
    """The value is looked up by what was typed."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(list(values))
        self._values = values

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        is_text = isinstance(value, str)  # anything else is a default
        return self._values[super().convert(value, param, ctx)] if is_text else value


class _Number(click.FloatRange):
    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = super().convert(value, param, ctx)
        if math.isnan(number):  # it compares with no bound
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


@dataclass(slots=True, eq=False)
class Declared:
    """An option or argument whose parameter is not known yet."""

    is_option: bool
    default: Any
    parse: Callable[[str], Any] | Mapping[str, Any] | None
    names: tuple[str, ...]
    settings: dict[str, Any]
    minimum: Any = None
    maximum: Any = None

    def parameter(self, name: str, kind: Any) -> click.Parameter:
        """The option or argument of a parameter of this name and type."""
        many = get_origin(kind) is tuple
        if many or get_origin(kind) is UnionType:
            kind = next(k for k in get_args(kind) if k is not NoneType)
        settings = dict(self.settings, type=self._type(kind), callback=_as_text)
        if self.default is ...:
            settings["required"] = True
        else:
            settings["default"] = _typed(self.default)
        if not self.is_option:
            settings["metavar"] = (
                settings["metavar"] if self.default is ... else f"[{settings['metavar']}]"
            ) + "..." * many
            return click.Argument([name], nargs=-1 if many else 1, **settings)
        names = self.names or ("--" + name.replace("_", "-"),)
        settings["is_flag"] = kind is bool
        shown = self.default not in (None, "", ()) and kind is not bool
        return click.Option([name, *names], multiple=many, show_default=shown, **settings)

    def _type(self, kind: Any) -> Any:
        if isinstance(self.parse, Mapping):
            return Chosen(self.parse)
        if self.parse is not None:
            return Parsed(self.parse)
        if isinstance(kind, type) and issubclass(kind, Enum):
            # "other" is only ever an answer.
            return Chosen({str(member.value): member for member in kind if member.name != "OTHER"})
        if self.minimum is None and self.maximum is None:
            return kind
        return (click.IntRange if kind is int else _Number)(self.minimum, self.maximum)


def _as_text(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Refuses what is no text, except in the names of files."""
    metavar = (param.metavar or "").strip("[]")
    if metavar.startswith(("FILE", "DIR")):
        return value
    for text in value if isinstance(value, tuple) else (value,):
        if isinstance(text, str) and not (text.startswith("@") and "@FILE" in metavar):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise click.BadParameter(
                    f"{text!a} is not text in UTF-8, from character {error.start + 1} on",
                    ctx,
                    param,
                ) from None
    return value


def argument_of(command: click.Command, field: str) -> str:
    """What was typed for a field of a request: "--type" for "event_type"; empty if unknown.

    One of several has its number: "--key 2" for "filter.data_keys[1]".
    """
    known = {param.name: param for param in command.params}
    for name, index in reversed(re.findall(r"([a-z_]+)(?:\[([0-9]+)\])?", field)):
        for param in map(known.get, (name, *_OTHER_NAMES.get(name, ()))):
            if param is not None:
                option = isinstance(param, click.Option)
                typed = param.opts[0] if option else (param.metavar or "").strip("[].")
                many = param.nargs == -1 or param.multiple
                return f"{typed} {int(index) + 1}" if index and many else typed
    return ""


def _typed(default: Any) -> Any:
    """A default as it would be typed."""
    if isinstance(default, tuple):
        return tuple(map(_typed, default))
    return default.value if isinstance(default, Enum) else default


def option(
    default: Any,
    help: str,
    *names: str,
    metavar: str | None = None,
    env: str | None = None,
    parse: Callable[[str], Any] | Mapping[str, Any] | None = None,
    **bounds: float,
) -> Any:
    """The default of a parameter that is given with dashes.

    Args:
        default: Its value where it is not given; `...` if it must be given.
        help: For people.
        names: With their dashes; by default that of the parameter. A switch with two sides names
            them "--yes/--no".
        metavar: What stands for the value in the help, by default its type.
        env: The variable that is used where it is not given.
        parse: Makes the value of the text, or raises ValueError with what is wrong; or all that can
            be typed, with the values.
        bounds: `minimum` and `maximum` of a number.
    """
    more: dict[str, Any] = {"help": help, "metavar": metavar, "envvar": env, "show_envvar": True}
    return Declared(True, default, parse, names, more, **bounds)


def argument(
    default: Any,
    metavar: str,
    help: str,
    parse: Callable[[str], Any] | Mapping[str, Any] | None = None,
) -> Any:
    """The default of a parameter that is given by its place; see `option`."""
    return Declared(False, default, parse, (), {"help": help, "metavar": metavar})


def declared(function: Callable[..., Any]) -> Iterator[click.Parameter]:
    """The options and arguments of a function, those of its bundles included."""
    for name, kind, spec in _parts(function):
        if spec is None:
            yield from declared(kind)
        else:
            yield spec.parameter(name, kind)


def bind(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a function, its bundles built; what `values` lacks is a default."""
    return {
        name: kind(**bind(kind, values)) if spec is None else values.get(name, spec.default)
        for name, kind, spec in _parts(function)
    }


def _parts(function: Callable[..., Any]) -> Iterator[tuple[str, Any, Declared | None]]:
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        kind, spec = parameter.annotation, parameter.default
        if isinstance(spec, Declared):
            yield name, kind, spec
        elif is_dataclass(kind):
            yield name, kind, None
