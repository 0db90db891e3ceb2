"""A model of one's own: a directory with an ONNX file and a tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contex_server.matching.embedders.onnx import LoadedModel, OnnxEmbedder, Pipeline, Pooling
from contex_server.matching.embedders.port import ModelInvalid

_MODELS = ("model.onnx", "onnx/model.onnx")
_WEIGHTS = ("_data", ".data")
"""The weights of a large model are in a file of their own: the model's name and one of these."""
_POOLING: dict[str, Pooling] = {
    "mean": "mean",
    "mean_tokens": "mean",
    "mean_sqrt_len_tokens": "mean",  # The same direction.
    "cls": "cls",
    "cls_token": "cls",
    "lasttoken": "last",
}
_PROMPTS = (("query",), ("document", "passage", "corpus"))
"""What the prompts of needs and of data are called."""
_DEFAULT_TOKENS = 512
"""An upper bound on what the directory says: the work grows faster than the length, and the texts
that describe data rarely have more."""


@dataclass(frozen=True, slots=True)
class Use:
    """How a model is used, as in `EmbedderSettings`; None is what its directory says."""

    pooling: Pooling | None = None
    need_prefix: str | None = None
    datum_prefix: str | None = None
    max_tokens: int | None = None


class LocalModel(OnnxEmbedder):
    """The model of a directory, in this process.

    Reads `model.onnx` or `onnx/model.onnx`, `tokenizer.json`, and, for what isn't given, the
    files that sentence-transformers leaves beside them.
    """

    def __init__(self, directory: Path, use: Use | None = None) -> None:
        super().__init__(lambda: read(directory, use or Use()))


def read(directory: Path, use: Use) -> LoadedModel:
    """Reads a model directory; raises as `Embedder.start` does."""
    model = _first(directory, _MODELS)
    tokenizer = _first(directory, ("tokenizer.json",))
    shipped = settings(directory)
    need_prefix = shipped.need_prefix if use.need_prefix is None else use.need_prefix
    datum_prefix = shipped.datum_prefix if use.datum_prefix is None else use.datum_prefix
    max_tokens = use.max_tokens or shipped.max_tokens or _DEFAULT_TOKENS
    complete = Use(use.pooling or shipped.pooling, need_prefix, datum_prefix, max_tokens)
    config = directory / "config.json"
    positions = _json(config).get("max_position_embeddings")
    if isinstance(positions, int) and max_tokens > positions:
        raise ModelInvalid(f"max_tokens {max_tokens}: {config} allows {positions}")
    try:
        pipeline = Pipeline(
            model,
            tokenizer.read_text(encoding="utf-8"),
            max_tokens=max_tokens,
            pooling=use.pooling,
            fallback=shipped.pooling or "mean",
        )
        if pipeline.pooling and (directory / "2_Dense").exists():
            raise ModelInvalid("2_Dense, a layer after pooling, is not part of the model file")
        dimension = pipeline.measure()
    except (ModelInvalid, UnicodeDecodeError) as error:
        raise ModelInvalid(f"{directory}: {error}") from error
    return LoadedModel(
        pipeline,
        f"{directory.resolve().name}@{_digest(model, tokenizer, complete)}",
        dimension,
        need_prefix or "",
        datum_prefix or "",
    )


def settings(directory: Path) -> Use:
    """What sentence-transformers left in a model's directory."""
    path = directory / "config_sentence_transformers.json"
    prompts = _json(path).get("prompts") or {}
    if not isinstance(prompts, dict):
        raise ModelInvalid(f"{path}: prompts")
    need_prefix, datum_prefix = (
        next((prompts[name] for name in names if isinstance(prompts.get(name), str)), None)
        for names in _PROMPTS
    )
    tokens = [
        _json(directory / "sentence_bert_config.json").get("max_seq_length"),
        _json(directory / "tokenizer_config.json").get("model_max_length"),
    ]
    known = [length for length in tokens if isinstance(length, int) and length > 0]
    return Use(
        _pooling(directory / "1_Pooling" / "config.json"),
        need_prefix,
        datum_prefix,
        min(known[0], _DEFAULT_TOKENS) if known else None,
    )


def _pooling(path: Path) -> Pooling | None:
    config = _json(path)
    modes = [
        name.removeprefix("pooling_mode_")
        for name, value in config.items()
        if name.startswith("pooling_mode_") and value is True
    ]
    if isinstance(config.get("pooling_mode"), str):
        modes = [config["pooling_mode"]]
    if not modes:
        return None
    if len(modes) > 1 or modes[0] not in _POOLING:
        raise ModelInvalid(f"{path}: pooling {' + '.join(modes)} is not offered")
    return _POOLING[modes[0]]


def _first(directory: Path, names: Sequence[str]) -> Path:
    if not directory.is_dir():
        raise ModelInvalid(f"{directory} is no directory")
    for name in names:
        if (directory / name).is_file():
            return directory / name
    raise ModelInvalid(f"{directory} has no {' or '.join(names)}")


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no such file."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError as error:
        raise ModelInvalid(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelInvalid(f"{path} is no JSON object")
    return value


def _digest(model: Path, tokenizer: Path, use: Use) -> str:
    digest = hashlib.sha256()
    weights = [model.with_name(model.name + suffix) for suffix in _WEIGHTS]
    for path in (model, *weights, tokenizer):
        if path.is_file():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    digest.update(json.dumps(asdict(use), sort_keys=True).encode())
    return digest.hexdigest()[:8]
