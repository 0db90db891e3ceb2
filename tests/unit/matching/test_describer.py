"""What is remembered of descriptions is what describing anew would say."""

from __future__ import annotations

import random
from typing import Any

import orjson
import pytest
from contex_server.matching.describe import Describer, describe_anew
from contex_server.matching.formats import tree
from contex_server.matching.formats.passages import PayloadMalformed

WORDS = ("a", "statusCode", "paid", "2024-01-01", "", "v1.2", "ö", "word " * 50, "long " * 300)


def some_value(chosen: random.Random, depth: int) -> Any:
    kind = chosen.random()
    if depth and kind < 0.3:
        names = [f"{chosen.choice(WORDS)}{chosen.randrange(9)}" for _ in range(chosen.randrange(6))]
        return {name: some_value(chosen, depth - 1) for name in names}
    if depth and kind < 0.5:
        return [some_value(chosen, depth - 1) for _ in range(chosen.randrange(7))]
    if kind < 0.8:
        return chosen.choice(WORDS)
    return chosen.choice((1, 2.5, None, True))


def test_remembered_descriptions() -> None:
    chosen, describer = random.Random(7), Describer(max_bytes=100_000)
    for _ in range(2_000):
        payload = orjson.dumps(some_value(chosen, chosen.randrange(5)))
        asked = (
            chosen.choice(("key", "", "..")),
            chosen.choice(("", "Some words.", "other  words")),
            payload,
            chosen.choice(("", "application/json", "text/plain", "image/png")),
            chosen.choice(("data_published", "order.paid")),
        )
        assert describer.describe(*asked) == describe_anew(*asked)


def test_the_outline_of_small_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = random.Random(8)
    values = [some_value(chosen, chosen.randrange(5)) for _ in range(2_000)]
    values += [list(range(500)), ["x"] * 500, {"x" * 500: 1}, {"x": "y" * 1_300}]
    small = [tree.describe_tree(value, tree.pointer) for value in values]
    assert sum(tree.small_outline(value) is not None for value in values) > 1_000
    monkeypatch.setattr(tree, "small_outline", lambda _: None)
    assert small == [tree.describe_tree(value, tree.pointer) for value in values]


def test_numbers_are_not_described_anew() -> None:
    describer = Describer()
    first, _ = describer.describe("key", "", b'{"a":"b","n":1}', "")
    second, _ = describer.describe("key", "", b'{"a":"b","n":2.5}', "")
    assert first is second


def test_malformed_payloads_stay_malformed() -> None:
    describer = Describer()
    describer.describe("key", "", b'{"n":1}', "")
    with pytest.raises(PayloadMalformed):
        describer.describe("key", "", b'{"n":01}', "")
