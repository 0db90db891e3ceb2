from __future__ import annotations

import re
from pathlib import Path

import pytest
from contex_cli.exits import InputError
from contex_demo import corpus
from contex_demo.corpus import Need
from hypothesis import given
from hypothesis import strategies as st

DATA_KEY = re.compile(r"[A-Za-z0-9_./:@#$+=~%-]{1,256}")
AGENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@+-]{0,127}")


def test_this_machine_has_more_than_300_documents_within_the_limits(
    this_machine: corpus.Corpus,
) -> None:
    found = this_machine
    assert len(found.documents) >= 300
    keys = [document.data_key for document in found.documents]
    assert len(set(keys)) == len(keys)
    assert all(DATA_KEY.fullmatch(key) for key in keys)
    assert all(len(document.description.encode()) <= 4_096 for document in found.documents)
    assert {"stdlib/zipfile", "stdlib/math", "package/grpcio"} <= set(keys)


def test_fifty_agents_have_one_to_three_needs_each() -> None:
    agents = corpus.built_in_agents()
    assert len(agents) == 50
    assert len({agent.agent_id for agent in agents}) == 50
    assert all(AGENT_ID.fullmatch(agent.agent_id) for agent in agents)
    assert all(1 <= len(agent.needs) <= 3 for agent in agents)
    assert all(need.text and need.answers for agent in agents for need in agent.needs)


def test_nearly_every_need_has_an_answer_here(
    this_machine: corpus.Corpus,
) -> None:
    found = this_machine
    keys = {document.data_key for document in found.documents}
    needs = [need for agent in found.agents for need in agent.needs]
    # The standard library differs from version to version, and so do the installed packages.
    assert sum(not need.answers.isdisjoint(keys) for need in needs) >= 0.8 * len(needs)


@given(st.integers(1, 2_000), st.integers(1, 70))
def test_needs_are_dealt_evenly_and_in_order(count: int, max_agents: int) -> None:
    needs = [Need(str(number)) for number in range(count)]
    if count > max_agents * corpus.NEEDS_PER_AGENT:
        with pytest.raises(InputError, match="--agents"):
            corpus.group(needs, max_agents)
        return
    agents = corpus.group(needs, max_agents)
    assert [need for agent in agents for need in agent.needs] == needs
    sizes = [len(agent.needs) for agent in agents]
    assert max(sizes) <= corpus.NEEDS_PER_AGENT
    assert max(sizes) - min(sizes) <= 1
    assert len({agent.agent_id for agent in agents}) == len(agents)


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines))
    return path


def test_files_are_read(tmp_path: Path) -> None:
    documents = write(
        tmp_path / "documents.jsonl",
        '{"data_key": "a", "description": "first", "data": {"x": 1}}',
        "",
        '{"data_key": "b", "data": [1]}',
    )
    needs = write(
        tmp_path / "needs.jsonl",
        '{"need": "the first", "data_keys": ["a"], "source": "us"}',
        '{"need": "anything"}',
    )
    found = corpus.of_files(documents, needs, 10)
    assert found.documents == (
        corpus.Document("a", "first", {"x": 1}),
        corpus.Document("b", "", [1]),
    )
    assert [agent.needs for agent in found.agents] == [
        (Need("the first", frozenset({"a"})), Need("anything"))
    ]


GOOD_DOCUMENT = '{"data_key": "a", "data": 1}'
GOOD_NEED = '{"need": "x"}'


@pytest.mark.parametrize(
    ("document", "need", "told"),
    [
        ("{", GOOD_NEED, "documents.jsonl:1: not JSON"),
        ("[]", GOOD_NEED, "documents.jsonl:1: not a JSON object"),
        ('{"data": 1}', GOOD_NEED, "'data_key' must be a text"),
        ('{"data_key": "a"}', GOOD_NEED, "'data' is missing"),
        ('{"data_key": "a", "data": 1, "description": 2}', GOOD_NEED, "'description' must be"),
        ("", GOOD_NEED, "no documents"),
        (GOOD_DOCUMENT, "", "no needs"),
        (GOOD_DOCUMENT, '{"need": " "}', "needs.jsonl:1: 'need' must be a text"),
        (GOOD_DOCUMENT, '{"need": "x", "data_keys": "a"}', "list of texts"),
    ],
)
def test_a_wrong_file_says_where_and_what(
    tmp_path: Path, document: str, need: str, told: str
) -> None:
    documents = write(tmp_path / "documents.jsonl", document)
    needs = write(tmp_path / "needs.jsonl", need)
    with pytest.raises(InputError, match=re.escape(told)):
        corpus.of_files(documents, needs, 10)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't read"):
        corpus.of_files(tmp_path / "nothing", tmp_path / "nothing", 10)
