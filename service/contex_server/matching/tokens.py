"""Counts the tokens that a text has for a language model."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer

ESTIMATED_BYTES = 3
"""UTF-8 bytes per token. English and JSON have about 4 with today's vocabularies, so the estimate
is on the safe side."""


class TokenCounter(Protocol):
    """Counts tokens."""

    @property
    def name(self) -> str:
        """Tells readers of a count how it was made."""
        ...

    def count(self, text: str) -> int:
        """The number of tokens of a text; 0 for an empty one."""
        ...


class EstimateCounter:
    """Estimates one token for each `ESTIMATED_BYTES`, rounded up."""

    name = "estimate"

    def count(self, text: str) -> int:
        """An estimate that needs no model's vocabulary."""
        size = len(text) if text.isascii() else len(text.encode())
        return -(-size // ESTIMATED_BYTES)


class TokenizerFile:
    """Counts by a `tokenizer.json`, exactly and without special tokens.

    The name is that of the file, or of its directory where the file is named
    `tokenizer.json`, and the first 8 hex digits of its SHA-256.

    Raises:
        ValueError: The file can't be read, or is not a tokenizer.
    """

    def __init__(self, path: Path) -> None:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ValueError(f"tokenizer {path}: {error.strerror or error}") from None
        try:
            self._tokenizer = Tokenizer.from_buffer(content)
        except Exception as error:  # The library raises nothing narrower.
            raise ValueError(f"tokenizer {path} is no tokenizer.json: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        stem = path.absolute().parent.name if path.stem == "tokenizer" else path.stem
        self.name = f"{stem or path.stem}-{sha256(content).hexdigest()[:8]}"

    def count(self, text: str) -> int:
        """The tokens of the text."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)


def token_counter(path: Path | None) -> TokenCounter:
    """The configured counter; the estimate if there is no file."""
    return EstimateCounter() if path is None else TokenizerFile(path)
