"""A reader that goes away, as `| head` does, ends a command quietly; a full disk does not."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from contex_cli.exits import ExitCode

from tests.unit.cli.service import NEED, serving

COMMANDS = pytest.mark.parametrize(
    "arguments",
    [
        ["match", NEED],  # a table, and lines of rich's
        ["match", NEED, "--json"],
        ["match", NEED, "--thresholds"],
        ["explain", NEED, "payments.yaml"],
        ["match", "--help"],
        ["--help"],
        ["--version"],
    ],
    ids=" ".join,
)


@COMMANDS
def test_a_command_whose_reader_has_gone_says_nothing_and_exits_with_0(
    arguments: list[str],
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as stdout:
        assert ended(arguments, stdout=stdout) == ("", 0)


@COMMANDS
def test_a_full_disk_is_said(arguments: list[str]) -> None:
    with open("/dev/full", "wb") as stdout:
        told = "contex: can't write: No space left on device\n"
        assert ended(arguments, stdout=stdout) == (told, ExitCode.USAGE)


@COMMANDS
def test_a_closed_stdout_is_said(arguments: list[str]) -> None:
    told = "contex: can't write: stdout is closed\n"
    assert ended(arguments, "sh", "-c", '"$@" >&-', "sh") == (told, ExitCode.USAGE)


def ended(arguments: list[str], *through: str, **options: Any) -> tuple[str, int]:
    """What a command said on stderr, and its exit code."""
    with serving() as (target, _, _):
        done = subprocess.run(
            [*through, sys.executable, "-m", "contex_cli", *arguments],
            stderr=subprocess.PIPE,
            env={**os.environ, "CONTEX_TARGET": target},
            timeout=60,
            text=True,
            **options,
        )
    return done.stderr, done.returncode
