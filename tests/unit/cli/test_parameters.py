"""How options and arguments are read off a signature, and off the words of a command line."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import click
import pytest
from contex_cli.command import command
from contex_cli.exits import ExitCode
from contex_cli.parameters import argument, bind, declared, option

from tests import command_line


class Colour(Enum):
    RED = "red"
    OTHER = "other"


@dataclass
class Inner:
    deep: bool | None = option(None, "Deep.", "--deep/--no-deep")


@dataclass(kw_only=True)
class Bundle:
    size: float = option(1.5, "Size.", minimum=0, maximum=9)
    inner: Inner


async def do(
    bundle: Bundle,
    first: str = argument(..., "FIRST", "The first."),
    rest: tuple[int, ...] = argument((), "N", "The rest."),
    names: tuple[str, ...] = option((), "Names.", "--name", "-n", metavar="NAME"),
    colour: Colour | None = option(None, "Colour."),
    level: int = option(3, "Level.", parse={"low": 1, "high": 3}),
    verbose: bool = option(False, "Talk.", "--verbose", "-v"),
    quiet: bool | None = option(None, "Don't talk."),
    who: str = option("me", "Who.", env="CONTEX_TEST_WHO"),
) -> None:
    """At length."""


COMMAND = command("state", without=["project", "target", "timeout", "json"])(do)


def parse(*words: str) -> dict[str, Any]:
    context = click.Command("do", params=list(declared(do))).make_context("do", list(words))
    return bind(do, context.params)


def test_what_is_not_given_has_its_default() -> None:
    assert parse("x") == {
        "bundle": Bundle(size=1.5, inner=Inner(None)),
        "first": "x",
        "rest": (),
        "names": (),
        "colour": None,
        "level": 3,
        "verbose": False,
        "quiet": None,
        "who": "me",
    }


def test_options_and_arguments_mix() -> None:
    found = parse("-n", "a", "x", "--name=b", "1", "--size", "2", "-vn", "-c", "2", "--no-deep")
    assert (found["first"], found["rest"], found["names"]) == ("x", (1, 2), ("a", "b", "-c"))
    assert (found["bundle"].size, found["bundle"].inner.deep) == (2.0, False)
    assert found["verbose"] is True
    assert parse("--deep", "x")["bundle"].inner.deep is True


def test_values_may_begin_with_a_dash_and_a_double_dash_ends_the_options() -> None:
    assert parse("x", "--who", "-me")["who"] == "-me"
    assert parse("--", "-x", "-1")["first"] == "-x"
    assert parse("--", "-x", "-1")["rest"] == (-1,)
    assert parse("-")["first"] == "-"


def test_the_last_of_several_wins() -> None:
    assert parse("x", "--who", "a", "--who", "b")["who"] == "b"


def test_values_are_converted() -> None:
    found = parse("x", "--colour", "red", "--level", "low")
    assert (found["colour"], found["level"]) == (Colour.RED, 1)


def test_the_environment_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTEX_TEST_WHO", "you")
    assert parse("x")["who"] == "you"
    assert parse("x", "--who", "me")["who"] == "me"
    monkeypatch.setenv("CONTEX_TEST_WHO", "")
    assert parse("x")["who"] == "me"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "Missing argument 'FIRST'."),
        (["x", "one"], "Invalid value for '[N]...': 'one' is not a valid integer."),
        (["x", "--size", "10"], "'--size': 10.0 is not in the range 0<=x<=9"),
        (["x", "--size", "nan"], "'--size': nan is not in the range"),
        (["x", "--colour", "blue"], "'--colour': 'blue' is not 'red'"),
        (["x", "--colour", "other"], "'--colour': 'other' is not 'red'"),
        (["x", "--level", "mid"], "'--level': 'mid' is not one of 'low', 'high'"),
        (["x", "--who"], "Option '--who' requires an argument."),
        (["x", "--verbose=1"], "Option '--verbose' does not take a value."),
        (["x", "--unknown"], "No such option '--unknown'."),
        (["x", "-q"], "No such option '-q'."),
    ],
)
def test_what_is_wrong_is_told(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert COMMAND.run(words) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("words", [["-h"], ["--help"], ["x", "-vh"], ["--who", "a", "--help"]])
def test_help_is_asked_for(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMAND.run(words) == 0
    assert capsys.readouterr().out == COMMAND.page()
    assert parse("--who", "--help", "x")["who"] == "--help"


def test_the_page() -> None:
    lines = [line.strip() for line in COMMAND.page().splitlines()]
    assert lines[0] == "Usage: contex state [OPTIONS] FIRST [N]..."
    for line in (
        "FIRST   The first.",
        "--size FLOAT RANGE  Size.  [default: 1.5; 0<=x<=9]",
        "--colour [red]      Colour.",
        "--level [low|high]  Level.  [default: 3]",
        "-v, --verbose       Talk.",
        "--who TEXT          Who.  [env var: CONTEX_TEST_WHO; default: me]",
        "-h, --help          Show this message and exit.",
    ):
        assert line in lines


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["publish", "\udcff", "1"], "KEY"),
        (["publish", "k", "\udcff"], "VALUE|-|@FILE"),
        (["publish", "k", "1", "-d", "\udcff"], "--description"),
        (["events", "--key", "\udcff"], "--key"),
        (["stats", "-p", "\udcff"], "--project"),
        (["state", "--at", "\udcff"], "--at"),
    ],
)
def test_an_argument_that_is_no_text_is_named(arguments: list[str], name: str) -> None:
    done = command_line.invoke(*arguments, "--target", "127.0.0.1:9")
    assert done.exit_code == ExitCode.USAGE
    assert name in done.stderr
    assert "udcff" in done.stderr
