from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from contex_server.matching import embedder as module
from contex_server.matching.embedder import (
    MAX_TOKENS,
    Embedder,
    MiniLM,
    ModelCorrupt,
    Vector,
    pack,
    runs,
    unpack,
)
from hypothesis import given
from hypothesis import strategies as st

ZIP = "zipfile. Work with ZIP archives. open, read, write, extract all, name list"
DATA = [
    "weather forecast. Temperature and rain for the coming days. city, temperature c, rain",
    ZIP,
    "api config. API endpoint and timeouts. base url, timeout",
    "team roster. Who plays on which position. players, name, position",
    "payment failed. A customer's card was declined. order, amount, reason",
]


@pytest.fixture(scope="module")
def real() -> Iterator[MiniLM]:
    model = MiniLM()
    model.load()
    yield model
    asyncio.run(model.close())


async def test_meaning_ranks_first(real: MiniLM) -> None:
    needs = ["read and write zip archives", "API configuration and endpoints", "will it rain?"]
    vectors = await real.embed([*needs, *DATA])
    best = np.argmax(vectors[:3] @ vectors[3:].T, axis=1)
    assert [DATA[i].split(".")[0] for i in best] == ["zipfile", "api config", "weather forecast"]


async def test_vectors_are_those_of_the_reference(real: MiniLM) -> None:
    """The example of sentence-transformers' README, within what int8 weights cost."""
    vectors = await real.embed(
        ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    )
    first, second, third = vectors
    cosines = [first @ second, first @ third, second @ third]
    assert cosines == pytest.approx([0.6660, 0.1046, 0.1411], abs=0.005)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-6)
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, real.dimension)


async def test_a_vector_does_not_depend_on_its_batch(real: MiniLM) -> None:
    fresh = MiniLM()
    alone = np.concatenate([await fresh.embed([text]) for text in DATA])
    await fresh.close()
    long = "a much longer text that has the others padded " * 4
    together = module._Pipeline(real._model_path, 1)
    tokens = [together._tokenizer.encode(text).ids for text in [*DATA, long]]
    assert np.abs(together._run(tokens)[: len(DATA)] - alone).max() < 1e-6


async def test_long_texts_are_cut(real: MiniLM) -> None:
    head = "word " * (MAX_TOKENS - 2)
    first, second, third = await real.embed([head + "zip", head + "rain", head[:-5] + "rain"])
    assert (first == second).all()
    assert (first != third).any()


async def test_no_texts_and_empty_texts(real: MiniLM) -> None:
    assert (await real.embed([])).shape == (0, 384)
    assert np.linalg.norm(await real.embed([""])) == pytest.approx(1.0)


def test_another_model_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"something else")
    with pytest.raises(ModelCorrupt, match=r"model\.onnx has SHA-256 .*, expected 8199be6f"):
        MiniLM(path).load()


def test_id_names_the_weights(real: MiniLM) -> None:
    embedder: Embedder = real
    assert embedder.model_id == "all-MiniLM-L6-v2-int8@8199be6f"


class FakePipeline:
    """Embeds a text as its length; records the turns and can be held or broken."""

    def __init__(self) -> None:
        self.turns: list[list[str]] = []
        self.started = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def embed(self, texts: Sequence[str]) -> Vector:
        self.turns.append(list(texts))
        self.started.set()
        assert self.gate.wait(5)
        if self.error is not None:
            raise self.error
        return np.array([[float(len(text))] * MiniLM.dimension for text in texts], np.float32)


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    fake = FakePipeline()
    monkeypatch.setattr(module, "_Pipeline", lambda path, threads: fake)
    return fake


async def test_waiting_callers_are_served_together(pipeline: FakePipeline) -> None:
    model = MiniLM()
    answers = await asyncio.gather(*(model.embed(["x" * n, "shared"]) for n in range(1, 6)))
    assert [answer[:, 0].tolist() for answer in answers] == [[n, 6] for n in range(1, 6)]
    assert pipeline.turns == [["x", "shared", "xx", "xxx", "xxxx", "xxxxx"]]
    await model.close()


async def test_recent_texts_are_not_embedded_again(pipeline: FakePipeline) -> None:
    model = MiniLM(cached_texts=2)
    for text in ("a", "bb", "a", "ccc", "bb"):
        assert (await model.embed([text]))[0, 0] == len(text)
    assert pipeline.turns == [["a"], ["bb"], ["ccc"], ["bb"]]
    await model.close()


async def test_a_turn_is_bounded(pipeline: FakePipeline) -> None:
    model = MiniLM()
    texts = [f"{n:03}" for n in range(150)] + [f"{n}" * 5_000 for n in range(3)]
    assert (await model.embed(texts))[:, 0].tolist() == [3.0] * 150 + [5_000.0] * 3
    assert [len(turn) for turn in pipeline.turns] == [64, 64, 24, 1]
    await model.close()


async def test_a_cancelled_caller_takes_nobody_along(pipeline: FakePipeline) -> None:
    model = MiniLM()
    pipeline.gate.clear()
    running = asyncio.create_task(model.embed(["first"]))
    await asyncio.to_thread(pipeline.started.wait, 5)
    leaving = asyncio.create_task(model.embed(["shared", "only mine"]))
    staying = asyncio.create_task(model.embed(["shared"]))
    await asyncio.sleep(0)
    leaving.cancel()
    running.cancel()
    await asyncio.wait([leaving, running])
    pipeline.gate.set()
    assert (await staying)[0, 0] == 6
    assert pipeline.turns == [["first"], ["shared"]]
    assert (await model.embed(["first"]))[0, 0] == 5
    assert len(pipeline.turns) == 2
    await model.close()


async def test_a_failure_reaches_its_callers_and_no_one_else(pipeline: FakePipeline) -> None:
    model = MiniLM()
    pipeline.error = MemoryError("no room")
    failed = await asyncio.gather(
        model.embed(["a", "b"]), model.embed(["b"]), return_exceptions=True
    )
    assert [str(error) for error in failed] == ["no room", "no room"]
    pipeline.error = None
    assert (await model.embed(["a"]))[0, 0] == 1
    await model.close()


async def test_closing_fails_who_waits(pipeline: FakePipeline) -> None:
    model = MiniLM()
    pipeline.gate.clear()
    waiting = [asyncio.create_task(model.embed([text])) for text in ("a", "b")]
    await asyncio.to_thread(pipeline.started.wait, 5)
    closing = asyncio.create_task(model.close())
    for outcome in await asyncio.gather(*waiting, return_exceptions=True):
        assert str(outcome) == "the embedder was closed"
    pipeline.gate.set()
    await closing
    with pytest.raises(RuntimeError, match="closed"):
        await model.embed(["c"])


@given(st.lists(st.integers(2, MAX_TOKENS), max_size=80))
def test_runs_hold_every_text_once_and_are_bounded(lengths: list[int]) -> None:
    found = runs(lengths)
    assert sorted(index for run in found for index in run) == list(range(len(lengths)))
    for run in found:
        longest = max(lengths[index] for index in run)
        assert longest * len(run) <= 512
        assert sum(longest - lengths[index] for index in run) <= 12 * len(run)


@given(st.integers(0, 2**32 - 1))
def test_packing(seed: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((3, 384)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    packed = [pack(row) for row in rows]
    assert {len(each) for each in packed} == {768}
    read = unpack(packed)
    assert read.dtype == np.float32
    assert np.abs(read @ read.T - rows @ rows.T).max() < 1e-4
    assert [pack(row) for row in read] == packed
    assert (unpack(packed[0]) == read[:1]).all()


def test_what_was_not_packed_is_refused() -> None:
    assert unpack([]).shape == (0, 0)
    with pytest.raises(ValueError, match="length"):
        unpack([b"12", b"1234"])
    with pytest.raises(ValueError):
        unpack(b"123")
