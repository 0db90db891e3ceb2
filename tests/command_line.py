"""Runs `contex` in this process, which saves the start of another."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from typing import NamedTuple
from unittest import mock

import contex_cli


class Done(NamedTuple):
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


def invoke(*arguments: str, env: Mapping[str, str] | None = None, stdin: str = "") -> Done:
    """Runs the command line with streams of its own."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="\n") for _ in range(2))
    given = io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8")
    with (
        mock.patch.dict(os.environ, env or {}),
        mock.patch.multiple(sys, stdin=given, stdout=out, stderr=err),
    ):
        code = contex_cli.main(list(arguments))
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    return Done(code, *texts)
