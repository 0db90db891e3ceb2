"""Starts the server with the flags of `contex serve`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsError

from contex_server.kernel.config import Settings
from contex_server.kernel.errors import StartupError as StartupError
from contex_server.kernel.telemetry import cleaned_text

_SECRET = re.compile("embedder$|_url$|_key_file$")
"""Settings whose values are not shown."""


class InvalidSettings(Exception):
    """Settings are out of their range.

    Attributes:
        problems: One line each, which names the flag or variable.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def serve(flags: Mapping[str, Any]) -> int:
    """Runs a server until it is stopped.

    Args:
        flags: The settings that were given as flags, by name, such as `data_dir`, and
            `embedder_path`, `embedder_url` and `embedder_model`.

    Returns:
        The exit code.

    Raises:
        InvalidSettings: A flag or variable can't be used.
        StartupError: A port is taken, the store can't be reached, or the like.
    """
    settings = settings_of(flags)
    from contex_server import app  # not needed to say that a flag is wrong

    try:
        return app.serve(settings)
    except (StartupError, OSError) as error:
        # What a library says may quote a URL.
        raise StartupError(cleaned_text(str(error))) from None


def settings_of(flags: Mapping[str, Any]) -> Settings:
    """The settings of flags and environment; flags win.

    Raises:
        InvalidSettings: A flag or variable can't be used.
    """
    given = dict(flags)
    fields = {"path": "embedder_path", "base_url": "embedder_url", "model": "embedder_model"}
    embedder = {name: given.pop(flag) for name, flag in fields.items() if flag in given}
    if {"path", "base_url"} <= embedder.keys():
        raise InvalidSettings(["give --embedder-path or --embedder-url, not both"])
    if "path" in embedder or "base_url" in embedder:
        embedder["kind"] = "local" if "path" in embedder else "openai"
    if embedder:
        given["embedder"] = embedder
    try:
        return Settings(**given)
    except ValidationError as error:
        raise InvalidSettings(_problems(error, given)) from None
    except SettingsError as error:
        raise InvalidSettings([str(error)]) from None


def _problems(error: ValidationError, flags: Mapping[str, Any]) -> list[str]:
    """One line for each setting that is out of its range, named as it was given."""
    lines = []
    for problem in error.errors():
        names = [str(part) for part in problem["loc"]]
        message = problem["msg"].removeprefix("Value error, ")
        if not names:
            lines.append(message)
            continue
        variable = f"CONTEX_{'__'.join(names).upper()}"
        if len(names) == 1 and (names[0] in flags or variable not in os.environ):
            variable = "--" + names[0].replace("_", "-")
        elif names[0] == "embedder" and names[-1] in flags.get("embedder", ()):
            variable = f"--embedder-{names[-1].removeprefix('base_')}"
        # Where one of the values, or of what is mistyped, may be a key or password, none is shown.
        shown = "" if _SECRET.search(names[0]) else f" {problem['input']}"
        lines.append(f"{variable}{shown}: {message}")
    return lines
