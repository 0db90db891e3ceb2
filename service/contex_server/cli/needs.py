"""Needs as people give them: `--need`, `--needs-file` and `--exclude`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contex_server.cli.exits import InputError, complain_about

if TYPE_CHECKING:
    from contex import Need

Needs = Annotated[
    list[str] | None,
    typer.Option("--need", "-n", help="What the agent wants to know, in plain words. Repeatable."),
]
NeedsFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A file of needs: .yaml or .json with a list of texts and of objects with text, "
        "threshold, max_matches and exclude; any other has one need a line, # starts a comment.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB", help="Data keys that never match these needs, with * and ?. Repeatable."
    ),
]
_KEYS = ("text", "threshold", "max_matches", "exclude")


def needs_or_exit(
    needs: Sequence[str] | None, file: Path | None, exclude: Sequence[str] | None
) -> list[str | Need]:
    """`read_needs`, or the end of the command with what is wrong."""
    try:
        return read_needs(needs, file, exclude)
    except InputError as error:
        raise typer.Exit(complain_about(error)) from None


def read_needs(
    needs: Sequence[str] | None, file: Path | None, exclude: Sequence[str] | None = None
) -> list[str | Need]:
    """The given needs and those of the file, in this order; without options they are texts.

    Raises:
        InputError: The file can't be read or does not hold needs, or something is excluded from
            no needs.
    """
    found: list[str | Need] = list(needs or ())
    if file is not None:
        try:
            found += _read_file(file)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"can't read {str(file)!r}: {error}") from None
    if not exclude:
        return found
    if not found:
        raise InputError("--exclude goes together with needs")
    return [_excluding(need, exclude) for need in found]


def _excluding(need: str | Need, exclude: Sequence[str]) -> Need:
    from contex import Need

    if isinstance(need, str):
        return Need(need, exclude_data_keys=tuple(exclude))
    keys = dict.fromkeys((*need.exclude_data_keys, *exclude))
    return Need(need.text, need.threshold, need.max_matches, tuple(keys))


def _read_file(file: Path) -> list[str | Need]:
    text = file.read_text(encoding="utf-8")
    if file.suffix.lower() not in (".yaml", ".yml", ".json"):
        stripped = (line.strip() for line in text.splitlines())
        return [line for line in stripped if line and not line.startswith("#")]
    items = _parse(text, file)
    if not isinstance(items, list):
        raise InputError(f"{str(file)!r} is not a list of needs")
    return [_need(item, f"{str(file)!r}, need {number}") for number, item in enumerate(items, 1)]


def _parse(text: str, file: Path) -> Any:
    import json

    import yaml

    try:
        return json.loads(text) if file.suffix.lower() == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"can't read {str(file)!r}: {' '.join(str(error).split())}") from None


def _need(item: Any, place: str) -> str | Need:
    from contex import Need

    if isinstance(item, str):
        return item
    if not isinstance(item, dict) or not isinstance(item.get("text"), str):
        raise InputError(f"{place}: neither a text nor an object with a text")
    for key in item:
        if key not in _KEYS:
            raise InputError(f"{place}: unknown key {key!r}; known are {', '.join(_KEYS)}")
    exclude = item.get("exclude") or []
    exclude = [exclude] if isinstance(exclude, str) else exclude
    if not isinstance(exclude, list) or not all(isinstance(glob, str) for glob in exclude):
        raise InputError(f"{place}: exclude is neither a glob nor a list of them")
    threshold, max_matches = item.get("threshold"), item.get("max_matches")
    if threshold is not None and not _is_number(threshold):
        raise InputError(f"{place}: threshold is not a number")
    if max_matches is not None and (type(max_matches) is not int or max_matches < 1):
        raise InputError(f"{place}: max_matches is not a number from 1")
    return Need(item["text"], threshold, max_matches, tuple(exclude))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
