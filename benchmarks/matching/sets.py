"""Documents with needs that people have judged, of many kinds.

A set is a folder with `documents.jsonl` (`data_key`, `description`, `payload` or `data`,
`content_type`) and `needs.jsonl` (`need`, and either `required` and `optional` or `data_keys`).
Nine team sets are kept here; the others are read from the folder that `DATA` names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray

_T = TypeVar("_T")
OWN = Path(__file__).parent / "teams"
SEED = 20_261_125


class Kind(StrEnum):
    """What the answers of a set are worth."""

    TEAM = "team"  # what a team publishes and needs, in English; every pair is judged
    MIXED = "team, several languages"
    SINGLE = "public, one answer or few"  # other right answers may be without a label
    HEADINGS = "headings"  # many right answers are without a label: precision in the first k only
    CROSS = "other languages"


_SHARED = {
    "teams/hospital-ward": Kind.TEAM,
    "teams/logistics": Kind.TEAM,
    "teams/software-project": Kind.TEAM,
    "teams/smart-city": Kind.MIXED,
    "sets/banking77": Kind.SINGLE,
    "sets/bfcl-live": Kind.SINGLE,
    "sets/clinc150": Kind.SINGLE,
    "sets/faq-sections": Kind.SINGLE,
    "sets/nl2bash-utilities": Kind.SINGLE,
    "sets/otel-semconv": Kind.SINGLE,
    "sets/prometheus-alerts": Kind.SINGLE,
    "sets/restbench": Kind.SINGLE,
    "sets/starter-workflows": Kind.SINGLE,
    "sets/tldr-commands": Kind.SINGLE,
    "needs": Kind.SINGLE,
    "sets/public-apis": Kind.HEADINGS,
    "sets/awesome-go": Kind.HEADINGS,
    "sets/tldr-crosslingual": Kind.CROSS,
}


@dataclass(frozen=True, slots=True)
class Document:
    """A datum to publish."""

    data_key: str
    description: str
    payload: bytes
    content_type: str


@dataclass(frozen=True, slots=True)
class Need:
    """A need, and the positions of the documents that answer it."""

    text: str
    right: tuple[int, ...]
    optional: tuple[int, ...] = ()  # count neither way


@dataclass(frozen=True, slots=True)
class DataSet:
    """Documents and needs."""

    name: str
    kind: Kind
    own: bool  # kept in this repository
    documents: tuple[Document, ...]
    needs: tuple[Need, ...]

    def labels(self) -> NDArray[np.int8]:
        """[needs, documents]: 1 answers, 0 does not, -1 counts neither way."""
        found = np.zeros((len(self.needs), len(self.documents)), np.int8)
        for row, need in enumerate(self.needs):
            found[row, list(need.optional)] = -1
            found[row, list(need.right)] = 1
        return found


def load_all(shared: Path, most_needs: int, most_documents: int) -> list[DataSet]:
    """Every set that is there; says which are not.

    Args:
        shared: The folder of the sets that are not in this repository.
        most_needs: Of a set; a random choice of its needs.
        most_documents: Of a set; what answers those needs, and a random choice of the rest.
    """
    folders = [(path, Kind.TEAM, True) for path in sorted(OWN.iterdir()) if path.is_dir()]
    folders += [(shared / place, kind, False) for place, kind in _SHARED.items()]
    found = []
    for path, kind, own in folders:
        if (path / "documents.jsonl").is_file():
            data = load(path, kind, own=own)
            found.append(limited(data, most_needs, most_documents))
        else:
            print(f"left out, not there: {path}")
    return found


def load(folder: Path, kind: Kind, *, own: bool = False) -> DataSet:
    """Reads a set."""
    documents = {d["data_key"]: _document(d) for d in _lines(folder / "documents.jsonl")}
    place = {key: at for at, key in enumerate(documents)}
    needs = []
    for line in _lines(folder / "needs.jsonl"):
        right = line["required"] if "required" in line else line["data_keys"]
        places = tuple(place[key] for key in right if key in place)
        optional = tuple(place[key] for key in line.get("optional", ()) if key in place)
        if places or not right:
            needs.append(Need(line["need"], places, tuple(sorted({*optional} - {*places}))))
    return DataSet(folder.name, kind, own, tuple(documents.values()), tuple(needs))


def limited(data: DataSet, most_needs: int, most_documents: int) -> DataSet:
    """The set with fewer needs and documents."""
    rng = np.random.default_rng(SEED)
    needs = _some(rng, data.needs, most_needs)
    if len(data.documents) <= most_documents:
        return replace(data, needs=tuple(needs))
    answers = {at for need in needs for at in (*need.right, *need.optional)}
    others = [at for at in range(len(data.documents)) if at not in answers]
    kept = sorted(answers | set(_some(rng, others, max(0, most_documents - len(answers)))))
    place = {old: new for new, old in enumerate(kept)}
    return replace(
        data,
        documents=tuple(data.documents[at] for at in kept),
        needs=tuple(
            Need(
                need.text,
                tuple(place[at] for at in need.right),
                tuple(place[at] for at in need.optional),
            )
            for need in needs
        ),
    )


def _some(rng: np.random.Generator, items: Sequence[_T], most: int) -> list[_T]:
    if len(items) <= most:
        return list(items)
    return [items[at] for at in sorted(rng.permutation(len(items))[:most].tolist())]


def _document(line: dict[str, Any]) -> Document:
    value, content_type = line.get("payload", line.get("data")), line.get("content_type", "")
    match value:
        case None:
            payload, content_type = b"{}", ""
        case str():
            payload, content_type = value.encode(), content_type or "text/plain"
        case _:
            payload = orjson.dumps(value)
    return Document(line["data_key"], line.get("description") or "", payload, content_type)


def _lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
