"""Models that run in this process: tokenizer, ONNX session, pooling."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from contex_server.matching.embedders.batcher import Batcher, stacked
from contex_server.matching.embedders.port import EmbeddingFailed, ModelInvalid, Role, Vector, unit

# onnxruntime reports its use to its maker unless this is set before it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

Pooling = Literal["mean", "cls", "last"]

_TEXTS_PER_TURN = 64
_CHARS_PER_TURN = 8_000
"""About 2,000 tokens or half a second: the time a text may wait for those before it.
Sorting more texts at once gains nothing: 33 texts/s in turns of 64 and of 256."""
_TOKENS_PER_RUN = 512
"""Throughput is flat from 256 to 512 tokens (34 texts/s of 121 tokens, one core) and falls
beyond: 32 at 1,024; 13 in batches of 32 padded to the longest, as they come."""
_RUN_COST_TOKENS = 12
"""What starting a run costs, as tokens: 4 ms against 0.33 ms for a token."""
_TOKENS_PER_EQUAL_RUN = 256
_SLOWER_FUSED = "SkipLayerNormFusion"
"""Takes 3.1 µs a token where Add and LayerNormalization take 1.0."""
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_POOLED = "sentence_embedding"
_HIDDEN = ("last_hidden_state", "token_embeddings")
_PROBE_TOKENS = 512


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to run, and how it wants to be used."""

    pipeline: Pipeline
    model_id: str
    dimension: int
    need_prefix: str = ""
    datum_prefix: str = ""


class OnnxEmbedder:
    """An embedder in this process; one worker thread runs the model.

    Callers that wait at the same time are served together: the same text is embedded once,
    and texts of similar length run as one batch.

    An instance belongs to one event loop at a time.
    """

    def __init__(self, read: Callable[[], LoadedModel], *, cached_texts: int = 2_048) -> None:
        """Creates an embedder; the model is read by `start`, `load` or with the first text."""
        self._read = read
        self._loaded: LoadedModel | None = None
        self._loading = threading.Lock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="contex-embed")
        self._batcher = Batcher(
            self._compute,
            texts_per_turn=_TEXTS_PER_TURN,
            chars_per_turn=_CHARS_PER_TURN,
            cached_texts=cached_texts,
        )

    @property
    def model_id(self) -> str:
        return self._known.model_id

    @property
    def dimension(self) -> int:
        return self._known.dimension

    @property
    def max_tokens(self) -> int:
        return self._known.pipeline.max_tokens

    @property
    def _known(self) -> LoadedModel:
        if self._loaded is None:
            raise RuntimeError("the model is not loaded yet")
        return self._loaded

    async def start(self) -> None:
        await asyncio.to_thread(self.load)

    def load(self) -> LoadedModel:
        """Reads the model if that has not happened; blocks for half a second or more."""
        with self._loading:
            if self._loaded is None:
                self._loaded = self._read()
            return self._loaded

    async def embed(self, texts: Sequence[str], role: Role) -> Vector:
        model = self._loaded
        if model is None:
            model = await asyncio.to_thread(self.load)
        prefix = model.need_prefix if role is Role.NEED else model.datum_prefix
        rows = await self._batcher.embed([prefix + text for text in texts] if prefix else texts)
        return stacked(rows, model.dimension)

    async def close(self) -> None:
        """Stops the worker after its current run; texts that still wait fail."""
        await self._batcher.close()
        await asyncio.to_thread(self._worker.shutdown)

    async def _compute(self, texts: list[str]) -> Sequence[Vector]:
        pipeline = self._known.pipeline
        loop = asyncio.get_running_loop()
        rows: Sequence[Vector] = await loop.run_in_executor(self._worker, pipeline.embed, texts)
        return rows


class Pipeline:
    """Texts to vectors as sentence-transformers does it: tokenize, cut, run, pool, length 1.

    A vector of a model with float32 arithmetic does not depend on what its text is batched
    or padded with beyond rounding. Where activations are quantised it does, visibly.

    No setting of the runtime made a difference on one core: memory pattern, arena, flushing
    denormals to zero, another cap, cost or order of runs, one text a run all lay within 5 %
    of 33 texts/s, and a second thread made 27 of 30 on two busy cores. Used by one thread.
    """

    def __init__(
        self,
        model: Path | bytes,
        tokenizer: str,
        *,
        max_tokens: int,
        pooling: Pooling | None = None,
        fallback: Pooling = "mean",
    ) -> None:
        """Loads a model.

        Args:
            model: The ONNX file, or its bytes.
            tokenizer: The text of its tokenizer.json.
            max_tokens: Where texts are cut.
            pooling: How token vectors become a text's. None: the model's own
                `sentence_embedding` if it has one, else `fallback`.
            fallback: See `pooling`.
        """
        self.max_tokens = max_tokens
        self._tokenizer = _tokenizer(tokenizer, max_tokens)
        self._session = _session(model)
        self._inputs = _inputs(self._session)
        self._output, self.pooling = _output(self._session, pooling, fallback)

    def measure(self) -> int:
        """Length of a vector, found by embedding a text of `max_tokens`."""
        words = "word " * min(self.max_tokens, _PROBE_TOKENS)
        try:
            (vector,) = self.embed([words])
        except Exception as error:
            raise ModelInvalid(f"the model fails on a text: {error}") from error
        return len(vector)

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """A vector for each text."""
        tokens = self.tokens(texts)
        vectors: dict[int, Vector] = {}
        for run in self._runs([len(ids) for ids in tokens]):
            vectors.update(zip(run, self.run([tokens[index] for index in run]), strict=True))
        return [vectors[index] for index in range(len(texts))]

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, cut at `max_tokens`."""
        # One by one: encode_batch would start a thread pool of its own. 0.2 ms of 30 a text.
        return [self._tokenizer.encode(text).ids for text in texts]

    def _runs(self, lengths: Sequence[int]) -> list[list[int]]:
        return runs(lengths)

    def run(self, tokens: Sequence[Sequence[int]]) -> Vector:
        """Runs the model once on padded texts; float32 [len(tokens), dimension]."""
        shape = len(tokens), max(1, *map(len, tokens))
        ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, row_ids in enumerate(tokens):
            ids[row, : len(row_ids)] = row_ids
            mask[row, : len(row_ids)] = 1
        values = dict(zip(_INPUTS, (ids, mask, np.zeros_like(ids)), strict=True))
        inputs = {name: values[name].astype(kind) for name, kind in self._inputs.items()}
        (output,) = self._session.run([self._output], inputs)
        vectors = _pool(np.asarray(output, np.float32), mask, self.pooling)
        if vectors.shape[:1] != shape[:1] or vectors.ndim != 2 or not np.isfinite(vectors).all():
            raise EmbeddingFailed(f"{self._output} is {output.shape}, or has no finite numbers")
        return unit(vectors)


class UnpaddedPipeline(Pipeline):
    """Runs texts of equal length together: for a model that computes in int8.

    Where activations are rounded to int8, what padding does to the last bit of a number can move
    the next by a whole step. Without padding a vector is the same to the bit in any run.

    Such a run starts in 0.3 ms, so that a text alone costs little. The model is the one of
    `minilm_int8`: `input_ids` [tokens, texts] to `sum`.
    """

    def __init__(self, model: bytes, tokenizer: str, *, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.pooling = None
        self._tokenizer = _tokenizer(tokenizer, max_tokens)
        self._session = _session(model, int8=True)

    def _runs(self, lengths: Sequence[int]) -> list[list[int]]:
        return equal_runs(lengths)

    def run(self, tokens: Sequence[Sequence[int]]) -> Vector:
        """Runs the model once on texts of equal length; float32 [len(tokens), dimension]."""
        ids = np.ascontiguousarray(np.array(tokens, np.int64).T)
        (output,) = self._session.run(["sum"], {"input_ids": ids})
        return unit(output)


def _tokenizer(text: str, max_tokens: int) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(text)
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_tokens)
    except Exception as error:  # The library raises nothing more specific.
        raise ModelInvalid(f"tokenizer.json is no tokenizer: {error}") from error
    return tokenizer


def _has_vnni(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether sums of int8 products can't saturate; false where the system doesn't tell.

    Older x86 adds two products in 16 bits, unless the runtime widens them first, which takes it
    twice as long. Vectors are the same either way (ADR 22).
    """
    try:
        return "vnni" in cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _session(model: Path | bytes, *, int8: bool = False) -> Any:
    """A session on one thread, set up for float32 arithmetic or for int8."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if int8 and not _has_vnni():
        options.add_session_config_entry("session.x64quantprecision", "1")
    without = [_SLOWER_FUSED] if int8 else []
    try:
        return onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"], disabled_optimizers=without
        )
    except Exception as error:
        raise ModelInvalid(f"the model can't be loaded: {error}") from error


def _inputs(session: Any) -> dict[str, type[np.integer[Any]]]:
    kinds: dict[str, type[np.integer[Any]]] = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
    inputs = {}
    for tensor in session.get_inputs():
        if tensor.name not in _INPUTS or tensor.type not in kinds:
            raise ModelInvalid(
                f"the model wants {tensor.name}, {tensor.type}; known are {', '.join(_INPUTS)}"
            )
        inputs[tensor.name] = kinds[tensor.type]
    if "input_ids" not in inputs:
        raise ModelInvalid("the model has no input input_ids")
    return inputs


def _output(session: Any, pooling: Pooling | None, fallback: Pooling) -> tuple[str, Pooling | None]:
    """Which output is taken, and how it is pooled; None if it is pooled already."""
    ranks = {tensor.name: len(tensor.shape) for tensor in session.get_outputs()}
    if pooling is None and ranks.get(_POOLED) == 2:
        return _POOLED, None
    first = next(iter(ranks))
    hidden = next(name for name in (*_HIDDEN, first) if name in ranks)
    if ranks[hidden] == 2:
        if pooling is not None:
            raise ModelInvalid(f"pooling {pooling}: the model's {hidden} is pooled already")
        return hidden, None
    if ranks[hidden] != 3:
        raise ModelInvalid(f"the model's {hidden} has {ranks[hidden]} dimensions, not 2 or 3")
    return hidden, pooling or fallback


def _pool(output: Vector, mask: NDArray[np.int64], pooling: Pooling | None) -> Vector:
    if pooling == "mean":
        # The sum has the mean's direction, and only the direction is kept.
        output = np.einsum("ntd,nt->nd", output, mask.astype(np.float32))
    elif pooling == "cls":
        output = output[:, 0]
    elif pooling == "last":
        output = output[np.arange(len(mask)), np.maximum(mask.sum(axis=1), 1) - 1]
    return output


def runs(lengths: Sequence[int]) -> list[list[int]]:
    """Splits texts, given their tokens, into runs that waste little on padding.

    Returns:
        The texts' positions, each once, in runs of at most `_TOKENS_PER_RUN` padded tokens.
        A run is closed when the padding that one more text adds costs more than a new run.
    """
    batches: list[list[int]] = []
    padded = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[index]
        size = len(batches[-1]) if batches else 0
        if (
            not batches
            or (length - padded) * size > _RUN_COST_TOKENS
            or length * (size + 1) > _TOKENS_PER_RUN
        ):
            batches.append([])
        batches[-1].append(index)
        padded = length
    return batches


def equal_runs(lengths: Sequence[int]) -> list[list[int]]:
    """The texts' positions, each once, in runs of equal lengths and bounded tokens."""
    alike: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        alike.setdefault(length, []).append(index)
    batches: list[list[int]] = []
    for length, indexes in alike.items():
        size = max(1, _TOKENS_PER_EQUAL_RUN // length)
        batches += [indexes[at : at + size] for at in range(0, len(indexes), size)]
    return batches
