"""Documents with needs that people have judged: one set to fit on, two of other kinds."""

from __future__ import annotations

import gzip
import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

SEED = 20_261_125
_AWS_OPERATIONS = 1_500
_AWS_LARGEST = 90
"""Services with more operations are left out: one would be most of the set."""
_OPENING = re.compile(
    r"^(The|This) (following |below )?(example|command|operation|code)s? "
    r"(shows how to|shows|command|operation)?\s*"
)


@dataclass(frozen=True, slots=True)
class Document:
    """A datum to publish."""

    data_key: str
    description: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Need:
    """A need, and the positions of the documents that answer it."""

    text: str
    right: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DataSet:
    """Documents and needs."""

    name: str
    documents: tuple[Document, ...]
    needs: tuple[Need, ...]


def berkeley(folder: Path) -> DataSet:
    """API descriptions and questions of the Berkeley function-calling leaderboard.

    Args:
        folder: Where documents.jsonl and needs.jsonl lie.
    """
    documents = [
        (d["data_key"], d["description"], d["data"]) for d in _lines(folder / "documents.jsonl")
    ]
    needs = [(n["need"], n["data_keys"]) for n in _lines(folder / "needs.jsonl")]
    return _made("needs", documents, needs)


def aws() -> DataSet:
    """Operations of AWS as botocore documents them; needs are what its examples say they do."""
    import botocore

    root = Path(botocore.__file__).parent / "data"
    services: list[tuple[list[Any], list[Any]]] = []
    for file in sorted(root.glob("*/*/examples-1.json*")):
        examples = _read(file).get("examples", {})
        model = next(iter(sorted(file.parent.glob("service-2.json*"))), None)
        if not examples or model is None:
            continue
        documents, needs = _service(file.parts[-3], _read(model), examples)
        if 8 <= len(documents) <= _AWS_LARGEST and needs:
            services.append((documents, needs))
    order = np.random.default_rng(SEED).permutation(len(services))
    documents, needs = [], []
    for at in order:
        if len(documents) + len(services[at][0]) <= _AWS_OPERATIONS:
            documents += services[at][0]
            needs += services[at][1]
    return _made("aws", documents, needs)


def standard_library() -> DataSet:
    """The demo's: modules and distributions of this Python, and what agents ask about them."""
    from contex_demo.corpus import of_this_machine

    corpus = of_this_machine()
    documents = [(d.data_key, d.description, d.data) for d in corpus.documents]
    needs = {
        need.text: sorted(need.answers)
        for agent in corpus.agents
        for need in agent.needs
        if need.answers
    }
    return _made("stdlib", documents, list(needs.items()))


def _service(name: str, model: Any, examples: Any) -> tuple[list[Any], list[Any]]:
    documents, needs = [], []
    for operation, spec in model["operations"].items():
        text = _plain(spec.get("documentation"))
        shape = model["shapes"].get(spec.get("input", {}).get("shape"), {})
        fields = {
            field: _plain(member.get("documentation"))[:150]
            for field, member in list(shape.get("members", {}).items())[:30]
        }
        data = {"operation": operation, "doc": text[:1_500], "parameters": fields}
        documents.append((f"{name}.{operation}", text[:300], data))
        for example in examples.get(operation, ())[:1]:
            said = _plain(example.get("description")) or _plain(example.get("title"))
            need = _OPENING.sub("", said).strip()
            if len(need.split()) >= 4:
                needs.append((need, [f"{name}.{operation}"]))
    return documents, needs


def _made(name: str, documents: list[Any], needs: list[Any]) -> DataSet:
    unique = {key: Document(key, text, orjson.dumps(data)) for key, text, data in documents}
    place = {key: at for at, key in enumerate(unique)}
    judged = [Need(text, tuple(place[key] for key in keys if key in place)) for text, keys in needs]
    return DataSet(name, tuple(unique.values()), tuple(need for need in judged if need.right))


def _lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _read(path: Path) -> Any:
    content = path.read_bytes()
    return json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)


def _plain(markup: str | None) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html.unescape(markup or "")).split())
