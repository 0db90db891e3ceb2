"""One document for each distribution installed beside this program."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions

from contex_server.cli.demo.corpus import Document


def documents() -> Iterator[Document]:
    """Documents of the installed distributions by name, each name once."""
    found: dict[str, Document] = {}
    for distribution in distributions():
        name = distribution.metadata["Name"]
        # The first on the path is the one that is imported.
        if name and (key := _key(name)) not in found:
            found[key] = _document(key, name, distribution)
    yield from (found[key] for key in sorted(found))


def _key(name: str) -> str:
    return "package/" + re.sub(r"[-_.]+", "-", name).lower()


def _document(key: str, name: str, distribution: Distribution) -> Document:
    metadata = distribution.metadata
    summary = metadata["Summary"] or ""
    data = {
        "name": name,
        "version": distribution.version,
        "summary": summary,
        "keywords": _keywords(metadata["Keywords"] or ""),
        "license": metadata["License-Expression"] or _first_line(metadata["License"] or ""),
        "requires": _names(distribution.requires or []),
    }
    return Document(key, summary, {name: value for name, value in data.items() if value})


def _keywords(text: str) -> list[str]:
    separator = "," if "," in text else None
    return [word.strip() for word in text.split(separator) if word.strip()]


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""


def _names(requirements: list[str]) -> list[str]:
    names = (re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in requirements)
    return list(dict.fromkeys(names))
