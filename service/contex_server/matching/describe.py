"""The texts that an event is matched by.

A description is the data key in words, the publisher's description, and an outline of the payload:
its names and texts, whatever its format. A payload that exceeds the outline is also described by
*passages*, each of which is embedded on its own. What can change without changing what the datum
is *about* (numbers, booleans, nulls, timestamps, ids) is left out, so that a gauge that moves keeps
its texts, their digest and their embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from contex_server.kernel.recent import Recent
from contex_server.matching.formats.media import Format, media
from contex_server.matching.formats.passages import Content, Passage
from contex_server.matching.formats.reading import outline_json, read
from contex_server.matching.words import in_words, phrase

DIGEST_BYTES = 16
QUOTED_CHARS = 400
"""Maximum length of a passage that a match quotes."""
INLINE_BYTES = 4 * 1024
"""Larger payloads should be described in a thread: 16 KiB of text in JSON take 11 ms."""
_KNOWN_BYTES = 16 * 1024 * 1024
_ENTRY_BYTES = 900
"""What a description that is remembered takes beside its texts."""


@dataclass(frozen=True, slots=True)
class Description:
    """What an event is about."""

    title: str  # the data key in words, or the event type if there is none
    summary: str  # the publisher's description in one line
    passages: tuple[Passage, ...]  # the payload; the first one is the head, and always there
    format: Format  # how the payload was read
    truncated: bool  # whether part of the payload is in no passage

    @property
    def described(self) -> bool:
        """False if only title and summary describe the payload."""
        return self.format is not Format.OPAQUE

    @property
    def head(self) -> str:
        """The first of `texts`: title, summary and outline."""
        return _sentences(self.title, self.summary, self.passages[0].text)

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts to embed, one line for each passage: the head, others with title and path."""
        title, format = self.title, self.format
        others = [_sentences(title, _path_words(format, p.path), p.text) for p in self.passages[1:]]
        return (self.head, *others)

    def quoted(self, passage: int) -> Passage:
        """A passage as matches quote it, or the last one if there are fewer."""
        part = self.passages[min(passage, len(self.passages) - 1)]
        return Passage(part.path, (part.text if passage else self.head)[:QUOTED_CHARS])

    def digest(self) -> bytes:
        """BLAKE2b over the texts: under one model, equal digests mean equal embeddings."""
        texts = "".join([f"{len(text)}:{text}" for text in self.texts])
        return blake2b(texts.encode(), digest_size=DIGEST_BYTES, person=b"description").digest()


Described = tuple[Description, bytes]
"""A description and its digest."""


def describe(
    data_key: str, description: str, payload: bytes, content_type: str, event_type: str = ""
) -> Description:
    """Describes what an event is about; takes some 7 µs for a small JSON object.

    Args:
        data_key: Name of the datum; if empty, the event type is used.
        description: The publisher's, used as a whole.
        payload: Its format is detected if the content type does not say.
        content_type: Empty means JSON.

    Raises:
        PayloadMalformed: The payload is not what its content type says.
    """
    return _description(data_key or event_type, description, *read(payload, media(content_type)))


def describe_anew(
    data_key: str, description: str, payload: bytes, content_type: str, event_type: str = ""
) -> Described:
    """`describe`, with the digest."""
    whole = describe(data_key, description, payload, content_type, event_type)
    return whole, whole.digest()


class Describer:
    """Describes events, and remembers the descriptions of small JSON: whatever changes without
    changing what is said costs reading it, and no more."""

    def __init__(self, max_bytes: int = _KNOWN_BYTES) -> None:
        self._known: Recent[tuple[str, str, str], Described] = Recent(max_bytes, _size)

    def describe(
        self,
        data_key: str,
        description: str,
        payload: bytes,
        content_type: str,
        event_type: str = "",
    ) -> Described:
        """`describe_anew`, or what is remembered of it."""
        kind = media(content_type)
        outline = outline_json(payload) if kind.format is Format.JSON else None
        name = data_key or event_type
        if outline is None:
            whole = _description(name, description, *read(payload, kind))
            return whole, whole.digest()
        place = name, description, outline
        known = self._known.get(place)
        if known is None:
            content = Content((Passage("", outline),))
            new = _description(name, description, Format.JSON, content)
            known = new, new.digest()
            self._known.put(place, known)
        return known


def _size(place: tuple[str, str, str], _: Described) -> int:
    name, description, outline = place
    return _ENTRY_BYTES + len(name) + 2 * len(description) + 2 * len(outline)


def _description(name: str, summary: str, format: Format, content: Content) -> Description:
    title = in_words(name)
    if summary:
        summary = " ".join(summary.split()).rstrip(".")
    passages = content.passages
    if not (title or summary or passages[0].text):
        title = name
    return Description(title, summary, passages, format, content.truncated)


def text_digest(text: str) -> bytes:
    """BLAKE2b of a single text, such as a need; never equals a description's digest."""
    return blake2b(text.encode(), digest_size=DIGEST_BYTES, person=b"need").digest()


def _sentences(*parts: str) -> str:
    return ". ".join([part for part in parts if part])


def _path_words(format: Format, path: str) -> str:
    """The meaningful parts of a path: names and headings, no positions."""
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
