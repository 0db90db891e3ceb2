"""One document for each distribution installed beside this program."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions

from contex_demo.corpus import Document


def documents() -> Iterator[Document]:
    """Documents of the installed distributions by name, each name once."""
    found: dict[str, Document] = {}
    for distribution in distributions():
        name = _field(distribution, "Name")
        # The first on the path is the one that is imported.
        if name and (key := _key(name)) not in found:
            found[key] = _document(key, name, distribution)
    yield from (found[key] for key in sorted(found))


def _key(name: str) -> str:
    return "package/" + re.sub(r"[-_.]+", "-", name).lower()


def _document(key: str, name: str, distribution: Distribution) -> Document:
    summary = _field(distribution, "Summary")
    data = {
        "name": name,
        "version": distribution.version,
        "summary": summary,
        "keywords": _keywords(_field(distribution, "Keywords")),
        "license": _field(distribution, "License-Expression")
        or _first_line(_field(distribution, "License")),
        "requires": _names(distribution.requires or []),
    }
    return Document(key, summary, {name: value for name, value in data.items() if value})


def _field(distribution: Distribution, name: str) -> str:
    # An absent field is None up to Python 3.12, and a KeyError some day.
    metadata = distribution.metadata
    return metadata[name] if name in metadata else ""  # noqa: SIM401 - it has no get()


def _keywords(text: str) -> list[str]:
    separator = "," if "," in text else None
    return [word.strip() for word in text.split(separator) if word.strip()]


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""


def _names(requirements: list[str]) -> list[str]:
    names = (re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in requirements)
    return list(dict.fromkeys(names))
