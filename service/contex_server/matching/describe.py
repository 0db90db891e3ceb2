"""The texts that stand for an event in matching.

A describing text is the data key in words, the publisher's description, and an outline of
the payload: its names and texts, whatever its format. A payload with more to say than the
outline has room for is described by *passages* as well, each of which is embedded on its own.
Whatever changes without changing what the datum is *about* (numbers, booleans, nulls,
timestamps, ids) is left out, so that a gauge that moves keeps its texts, their digest and
their embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from contex_server.matching.formats.media import Format, media
from contex_server.matching.formats.passages import (
    MAX_PASSAGES,
    OUTLINE_CHARS,
    PASSAGE_CHARS,
    Passage,
    PayloadMalformed,
)
from contex_server.matching.formats.reading import read
from contex_server.matching.words import in_words, phrase

__all__ = [
    "DIGEST_BYTES",
    "INLINE_BYTES",
    "MAX_PASSAGES",
    "OUTLINE_CHARS",
    "PASSAGE_CHARS",
    "Description",
    "Format",
    "Passage",
    "PayloadMalformed",
    "describe",
    "text_digest",
]

DIGEST_BYTES = 16
INLINE_BYTES = 16 * 1024
"""A larger payload is better described in a thread: 1 MiB of YAML takes 0.2 s."""


@dataclass(frozen=True, slots=True)
class Description:
    """What an event is about.

    Attributes:
        title: The data key in words, or the event type if there is none.
        summary: The publisher's description in one line.
        passages: The payload; at least one, and the first is the head.
        format: How the payload was read.
        truncated: Some of the payload is in no passage: it has more than `MAX_PASSAGES`, or
            more than is looked at.
    """

    title: str
    summary: str
    passages: tuple[Passage, ...]
    format: Format
    truncated: bool

    @property
    def described(self) -> bool:
        """False if there is a payload that only title and summary stand for."""
        return self.format is not Format.OPAQUE

    @property
    def texts(self) -> tuple[str, ...]:
        """What is embedded, in one line for each passage.

        The head comes with title and summary, the others with title and path.
        """
        title, passages = self.title, self.passages
        head = _sentences(title, self.summary, passages[0].text)
        if len(passages) == 1:
            return (head,)
        return (
            head,
            *[_sentences(title, _path_words(self.format, p.path), p.text) for p in passages[1:]],
        )

    def digest(self) -> bytes:
        """Identifies the texts: under one model, they have the same embeddings.

        Returns:
            `DIGEST_BYTES` bytes of BLAKE2b over the texts, each after its length.
        """
        texts = "".join([f"{len(text)}:{text}" for text in self.texts])
        return blake2b(texts.encode(), digest_size=DIGEST_BYTES, person=b"description").digest()


def describe(
    data_key: str, description: str, payload: bytes, content_type: str, event_type: str = ""
) -> Description:
    """Says in words what an event is about.

    Args:
        data_key: Name of the datum; if it is empty the event type takes its place.
        description: The publisher's words, taken whole.
        payload: The fact. Its format is detected if the content type does not tell.
        content_type: Media type of the payload; empty means JSON.
        event_type: The event's type.

    Returns:
        Title, summary and passages; their texts are the same for every payload that differs
        only in numbers, booleans, nulls, timestamps and ids. Some 10 µs for a small JSON
        object.

    Raises:
        PayloadMalformed: The payload is not what its content type says.
    """
    format, content = read(payload, media(content_type))
    title = in_words(data_key or event_type)
    if description:
        description = " ".join(description.split()).rstrip(".")
    passages = content.passages
    if not (title or description or passages[0].text):
        title = data_key or event_type
    return Description(title, description, passages, format, content.truncated)


def text_digest(text: str) -> bytes:
    """Identifies a single text, such as a need; never equal to a description's digest.

    Returns:
        `DIGEST_BYTES` bytes of BLAKE2b.
    """
    return blake2b(text.encode(), digest_size=DIGEST_BYTES, person=b"need").digest()


def _sentences(*parts: str) -> str:
    return ". ".join([part for part in parts if part])


def _path_words(format: Format, path: str) -> str:
    """A path as far as it says something: names and headings, no positions."""
    match format:
        case Format.JSON | Format.YAML | Format.TOML:
            tokens = [token.replace("~1", "/").replace("~0", "~") for token in path.split("/")]
            return " ".join(filter(None, map(in_words, tokens)))
        case Format.XML:
            return " ".join(filter(None, map(in_words, path.split("/"))))
        case Format.MARKDOWN:
            return phrase(path.replace(" > ", ", "))
        case _:
            return ""
