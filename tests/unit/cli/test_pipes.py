"""A reader that goes away, as `| head` does, ends a command quietly."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.unit.cli.service import NEED, serving


@pytest.mark.parametrize(
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
def test_a_command_whose_reader_has_gone_says_nothing_and_exits_with_0(
    arguments: list[str],
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with serving() as (target, _, _):
        done = subprocess.run(
            [sys.executable, "-m", "contex_cli", *arguments],
            stdout=writer,
            stderr=subprocess.PIPE,
            env={**os.environ, "CONTEX_TARGET": target},
            timeout=60,
            text=True,
        )
    os.close(writer)
    assert (done.stderr, done.returncode) == ("", 0)
