"""What a command takes: options and arguments, declared in its signature.

A parameter has a type, and an `option` or `argument` as its default:

    limit: int = option(100, "At most this many; 0: all.", "--limit", "-n", minimum=0)

A parameter whose type is a dataclass of such fields stands for all of them: options that several
commands share are declared once. docs/adr/0018-a-command-line-that-starts-fast.md says why this is
not left to a library.
"""

from __future__ import annotations

import getopt
import inspect
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from contex_cli.exits import UsageError

_WIDTH = 100
_WIDEST_NAMES = 30


class HelpWanted(Exception):
    """-h or --help was given."""


@dataclass(slots=True, eq=False)
class Option:
    """What is said about a parameter beside its type; see `option`."""

    default: Any
    help: str
    names: tuple[str, ...] = ()
    metavar: str = ""
    env: str = ""
    minimum: float | None = None
    maximum: float | None = None
    parse: Callable[[str], Any] | None = None
    has_dashes: bool = True


def option(default: Any, help: str, *names: str, **more: Any) -> Any:
    """The default of a parameter that is given with dashes.

    Args:
        default: Its value where it is not given; `...` if it must be given.
        help: For people.
        names: With their dashes; by default that of the parameter. A switch with two sides names
            them "--yes/--no".
        more: `metavar`, what stands for the value in the help, by default its type; `env`, the
            variable that is used where it is not given; `minimum` and `maximum` of a number;
            `parse`, which makes the value of the text, or raises ValueError with what is wrong.
    """
    return Option(default, help, names, **more)


def argument(
    default: Any, metavar: str, help: str, parse: Callable[[str], Any] | None = None
) -> Any:
    """The default of a parameter that is given by its place; see `option`."""
    return Option(default, help, metavar=metavar, parse=parse, has_dashes=False)


def one_of(values: Mapping[str, Any], metavar: str = "") -> dict[str, Any]:
    """What to add to an option whose value is looked up by what was typed."""

    def parse(text: str) -> Any:
        if text not in values:
            raise ValueError(f"{text!r} is not one of {', '.join(map(repr, values))}")
        return values[text]

    return {"metavar": metavar or f"<{'|'.join(values)}>", "parse": parse}


@dataclass(slots=True)
class Parameter:
    """An option or argument, as read off a signature.

    Attributes:
        many: It may be given several times; the value is then a tuple.
    """

    name: str
    spec: Option
    kind: Any
    many: bool
    positive: list[str] = field(default_factory=list)
    negative: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.spec.has_dashes:
            for names in self.spec.names or ("--" + self.name.replace("_", "-"),):
                yes, _, no = names.partition("/")
                self.positive.append(yes)
                self.negative += [no] if no else []

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.spec.default is ...

    @property
    def shown(self) -> str:
        """How messages call it."""
        return self.positive[0] if self.spec.has_dashes else self.spec.metavar

    def convert(self, text: str) -> Any:
        """Makes the value of what was typed.

        Raises:
            UsageError: It can't be.
        """
        kind, spec = self.kind, self.spec
        try:
            if spec.parse is not None:
                return spec.parse(text)
            if self.choices and text not in self.choices:
                raise ValueError(f"{text!r} is not one of {', '.join(map(repr, self.choices))}")
            if kind in (int, float):
                return self._in_range(text)
            return kind(text)
        except ValueError as error:
            raise UsageError(str(error), self.shown) from None

    def _in_range(self, text: str) -> float:
        try:
            value: float = self.kind(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a number") from None
        low, high = self.spec.minimum, self.spec.maximum
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            raise ValueError(f"{text} is not in the range {self.range_text}")
        return value

    @property
    def choices(self) -> list[str]:
        """The values of an enumeration; "other" is only ever an answer."""
        is_enum = isinstance(self.kind, type) and issubclass(self.kind, Enum)
        return [str(m.value) for m in self.kind if m.name != "OTHER"] if is_enum else []

    @property
    def range_text(self) -> str:
        """The range of a number; empty for any."""
        low, high = self.spec.minimum, self.spec.maximum
        if low is None and high is None:
            return ""
        if high is None:
            return f"x>={low:g}"
        return f"x<={high:g}" if low is None else f"{low:g}<=x<={high:g}"

    def names_text(self) -> str:
        """The names as the help lists them, the short one first."""
        if not self.spec.has_dashes:
            return self.spec.metavar
        names = ", ".join(sorted(self.positive, key=lambda name: name.startswith("--")))
        if self.negative:
            return f"{names} / {', '.join(self.negative)}"
        if self.kind is bool:
            return names
        shown = "|".join(self.choices) or self.kind.__name__.lower()
        return f"{names} {self.spec.metavar or f'<{shown}>'}"

    def help_text(self) -> str:
        """Its help with what goes without saying: variable, default, range."""
        facts = [f"env var: {self.spec.env}"] if self.spec.env else []
        if self.required:
            facts.append("required")
        elif isinstance(self.spec.default, Enum):
            facts.append(f"default: {self.spec.default.value}")
        elif not isinstance(self.spec.default, bool | tuple) and self.spec.default not in (
            None,
            "",
        ):
            facts.append(f"default: {self.spec.default}")
        facts += filter(None, [self.range_text])
        return self.spec.help + (f"  [{'; '.join(facts)}]" if facts else "")


@dataclass(slots=True)
class Signature:
    """The parameters of a command, or of a bundle of options.

    Attributes:
        parts: By the name of the function's parameter: an option or argument, or a bundle.
        build: The bundle's dataclass; `dict` for a command.
    """

    parts: dict[str, Parameter | Signature]
    build: Callable[..., Any] = dict

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Signature:
        """Reads the parameters of a function that are options, arguments or bundles of them."""
        return cls(dict(_parts(function)))

    @property
    def parameters(self) -> list[Parameter]:
        """All, in their order."""
        parts = self.parts.values()
        return [
            p
            for part in parts
            for p in ([part] if isinstance(part, Parameter) else part.parameters)
        ]

    @property
    def options(self) -> list[Parameter]:
        """Those with dashes."""
        return [p for p in self.parameters if p.spec.has_dashes]

    @property
    def arguments(self) -> list[Parameter]:
        """Those without."""
        return [p for p in self.parameters if not p.spec.has_dashes]

    def parse(self, words: Sequence[str], subcommands: Collection[str] = ()) -> dict[str, Any]:
        """Reads a command's words; `subcommands` are no words of its own.

        Returns:
            The function's keyword arguments.

        Raises:
            HelpWanted: It is to be explained.
            UsageError: They are wrong.
        """
        named = {name: p for p in self.options for name in (*p.positive, *p.negative)}
        short = "".join(n[1] + ":" * (p.kind is not bool) for n, p in named.items() if n[1] != "-")
        long = [n[2:] + "=" * (p.kind is not bool) for n, p in named.items() if n[1] == "-"]
        try:
            given, places = getopt.gnu_getopt(list(words), short + "h", [*long, "help"])
        except getopt.GetoptError as error:
            raise UsageError(f"{error.msg[0].upper()}{error.msg[1:]}.") from None
        texts: dict[str, list[str]] = {}
        values: dict[str, Any] = {}
        for name, text in given:
            if name in ("-h", "--help"):
                raise HelpWanted
            parameter = named[name]
            if parameter.kind is bool:
                values[parameter.name] = name in parameter.positive
            else:
                texts.setdefault(parameter.name, []).append(text)
        for argument in self.arguments:
            taken = len(places) if argument.many else 1
            if places[:taken]:
                texts[argument.name] = places[:taken]
            places = places[taken:]
        if places and places[0] in subcommands:
            raise UsageError(f"put the options after {places[0]!r}")
        if places:
            raise UsageError(f"Got unexpected extra arguments ({' '.join(places)}).")
        for parameter in self.parameters:
            if parameter.name not in values:
                values[parameter.name] = _value(parameter, texts.get(parameter.name))
        kwargs: dict[str, Any] = self._bind(values)
        return kwargs

    def _bind(self, values: dict[str, Any]) -> Any:
        return self.build(
            **{
                name: values[name] if isinstance(part, Parameter) else part._bind(values)
                for name, part in self.parts.items()
            }
        )

    def usage(self, path: str) -> str:
        """The line that shows how to call it."""
        shown = []
        for argument in self.arguments:
            name = argument.spec.metavar if argument.required else f"[{argument.spec.metavar}]"
            shown.append(name + "..." * argument.many)
        return " ".join(["Usage:", path, "[OPTIONS]", *shown])

    def page(self, path: str, about: str, more: str = "") -> str:
        """What --help prints.

        Args:
            path: How the command is called.
            about: What it does, as in a docstring.
            more: What stands at the end.
        """
        paragraphs = [" ".join(part.split()) for part in inspect.cleandoc(about).split("\n\n")]
        parts = [self.usage(path) + "\n"]
        parts += [f"{_wrapped(part, 2)}\n" for part in paragraphs]
        if self.arguments:
            parts.append("Arguments:\n" + _listed(_entries(self.arguments)))
        entries = [*_entries(self.options), ("-h, --help", "Show this message and exit.")]
        return "\n".join([*parts, "Options:\n" + _listed(entries), *([more] if more else [])])


def _parts(function: Callable[..., Any]) -> Iterator[tuple[str, Parameter | Signature]]:
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        kind, spec = parameter.annotation, parameter.default
        if isinstance(spec, Option):
            many = get_origin(kind) is tuple
            if many or get_origin(kind) is UnionType:
                kind = next(k for k in get_args(kind) if k is not NoneType)
            yield name, Parameter(name, spec, kind, many)
        elif isinstance(kind, type) and is_dataclass(kind):
            yield name, Signature(dict(_parts(kind)), kind)


def _value(parameter: Parameter, texts: list[str] | None) -> Any:
    """The value of what was given, or of what stands for it."""
    if texts is None and parameter.spec.env and (text := os.environ.get(parameter.spec.env)):
        texts = [text]
    if texts is None:
        if parameter.required:
            what = "option" if parameter.spec.has_dashes else "argument"
            raise UsageError(f"Missing {what} {parameter.shown!r}.")
        return parameter.spec.default
    values = tuple(map(parameter.convert, texts))
    return values if parameter.many else values[-1]


def _entries(parameters: list[Parameter]) -> list[tuple[str, str]]:
    return [(parameter.names_text(), parameter.help_text()) for parameter in parameters]


def _listed(entries: list[tuple[str, str]]) -> str:
    """Two columns; names that are too long for the first have a line of their own."""
    width = min(max(len(names) for names, _ in entries), _WIDEST_NAMES) + 4
    lines = []
    for names, text in entries:
        head = f"  {names}"
        if len(head) + 2 > width:
            lines.append(head)
            head = ""
        lines.append(_wrapped(text, width, head.ljust(width)))
    return "\n".join(lines) + "\n"


def _wrapped(text: str, indent: int, head: str | None = None) -> str:
    import textwrap

    margin = " " * indent
    first = margin if head is None else head
    return textwrap.fill(
        text, _WIDTH, initial_indent=first, subsequent_indent=margin, break_on_hyphens=False
    )
