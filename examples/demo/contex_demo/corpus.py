"""What the demo publishes and who needs what: this machine's Python, or files of anyone's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contex_cli.exits import InputError

NEEDS_PER_AGENT = 32
"""The API's limit."""


@dataclass(frozen=True, slots=True)
class Document:
    """A datum to publish: its key, what it is in plain words, and the fact."""

    data_key: str
    description: str
    data: Any


@dataclass(frozen=True, slots=True)
class Need:
    """A need, and the data keys that answer it where somebody has judged that."""

    text: str
    answers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class AgentPlan:
    """An agent to register."""

    agent_id: str
    needs: tuple[Need, ...]


@dataclass(frozen=True, slots=True)
class Corpus:
    """The input of one run."""

    name: str
    documents: tuple[Document, ...]
    agents: tuple[AgentPlan, ...]

    @property
    def needs(self) -> int:
        return sum(len(agent.needs) for agent in self.agents)


def of_this_machine() -> Corpus:
    """The Python standard library, the installed distributions, and fifty agents.

    Takes a second or two: it parses the library's source.
    """
    from contex_demo import distributions, stdlib

    documents = (*stdlib.documents(), *distributions.documents())
    return Corpus("the Python of this machine", documents, built_in_agents())


def built_in_agents() -> tuple[AgentPlan, ...]:
    """The agents of needs.txt: a name, then indented its needs with their answers."""
    needs: dict[str, list[Need]] = {}
    name = ""
    for line in Path(__file__).with_name("needs.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("    "):
            text, _, answers = line.strip().partition(" | ")
            keys = (k if k.startswith("package/") else f"stdlib/{k}" for k in answers.split())
            needs[name].append(Need(text, frozenset(keys)))
        elif line and not line.startswith("#"):
            name = line
            needs[name] = []
    return tuple(AgentPlan(name, tuple(agent_needs)) for name, agent_needs in needs.items())


def of_files(documents: Path, needs: Path, max_agents: int) -> Corpus:
    """Documents and needs of JSON-lines files.

    Args:
        documents: Lines with data_key, data and optionally description.
        needs: Lines with need and optionally data_keys, the right answers.
        max_agents: Maximum number of agents that the needs are dealt to.
    """
    all_documents = tuple(_document(*line) for line in _lines(documents))
    if not all_documents:
        raise InputError(f"{documents}: no documents")
    all_needs = [_need(*line) for line in _lines(needs)]
    if not all_needs:
        raise InputError(f"{needs}: no needs")
    return Corpus(documents.name, all_documents, group(all_needs, max_agents))


def group(needs: Sequence[Need], max_agents: int) -> tuple[AgentPlan, ...]:
    """Deals needs to as few agents as can hold them, evenly and in order."""
    if len(needs) > max_agents * NEEDS_PER_AGENT:
        raise InputError(
            f"{len(needs):,} needs are more than {max_agents} agents with {NEEDS_PER_AGENT} each "
            "can hold; see --agents"
        )
    count = -(-len(needs) // NEEDS_PER_AGENT)
    bounds = [index * len(needs) // count for index in range(count + 1)]
    return tuple(
        AgentPlan(f"agent-{index + 1:03}", tuple(needs[bounds[index] : bounds[index + 1]]))
        for index in range(count)
    )


def _text(where: str, record: dict[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {key!r} must be a text")
    return value


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each line is, for messages, and its object."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                where = f"{path}:{number}"
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise InputError(f"{where}: not JSON: {error}") from None
                if not isinstance(record, dict):
                    raise InputError(f"{where}: not a JSON object")
                yield where, record
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"can't read {str(path)!r}: {error}") from None


def _document(where: str, record: dict[str, Any]) -> Document:
    if "data" not in record:
        raise InputError(f"{where}: 'data' is missing")
    description = record.get("description", "")
    if not isinstance(description, str):
        raise InputError(f"{where}: 'description' must be a text")
    return Document(_text(where, record, "data_key"), description, record["data"])


def _need(where: str, record: dict[str, Any]) -> Need:
    answers = record.get("data_keys") or []
    if not isinstance(answers, list) or not all(isinstance(key, str) for key in answers):
        raise InputError(f"{where}: 'data_keys' must be a list of texts")
    return Need(_text(where, record, "need"), frozenset(answers))
