"""One document for each distribution installed beside this program."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions

from contex_demo.corpus import Document


def documents() -> Iterator[Document]:
    """Documents of the installed distributions by name, each name once."""
    by_key: dict[str, Document] = {}
    for distribution in distributions():
        if name := _field(distribution, "Name"):
            key = "package/" + re.sub(r"[-_.]+", "-", name).lower()
            if key not in by_key:  # The first on the path is the one that is imported.
                by_key[key] = _document(key, name, distribution)
    yield from (by_key[key] for key in sorted(by_key))


def _document(key: str, name: str, distribution: Distribution) -> Document:
    summary, keywords = _field(distribution, "Summary"), _field(distribution, "Keywords")
    license_lines = _field(distribution, "License").strip().splitlines() or [""]
    requires = (re.split(r"[^\w.-]", r, maxsplit=1)[0] for r in distribution.requires or [])
    words = (word.strip() for word in keywords.split("," if "," in keywords else None))
    data = {
        "name": name,
        "version": distribution.version,
        "summary": summary,
        "keywords": [word for word in words if word],
        "license": _field(distribution, "License-Expression") or license_lines[0],
        "requires": list(dict.fromkeys(requires)),
    }
    return Document(key, summary, {name: value for name, value in data.items() if value})


def _field(distribution: Distribution, name: str) -> str:
    # An absent field is None up to Python 3.12, and a KeyError some day.
    metadata = distribution.metadata
    return metadata[name] if name in metadata else ""  # noqa: SIM401 - it has no get()
