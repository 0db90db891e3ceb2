"""Trees: what JSON, YAML, TOML and XML have in common.

A tree is what a JSON parser returns: dicts, lists and strings; any other value has no words.
It may share branches (YAML's aliases), but has no cycles. Nothing here recurses.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from contex_server.matching.formats.passages import (
    OUTLINE_CHARS,
    PASSAGE_CHARS,
    PATH_CHARS,
    VALUES_READ,
    Content,
    Part,
    Parts,
    Passage,
    content,
    leading,
    pack,
)
from contex_server.matching.words import (
    READ_CHARS,
    STRING_CHARS,
    cut,
    in_words,
    lines,
    phrase,
    pieces,
    short_in_words,
    short_phrase,
)

NamePlace = Callable[[list[str | int], list[str | int]], str]
"""Names the place from a first to a last branch, given by their tokens."""

_WORDY = frozenset({str, dict, list})
_SEPARATOR = ", "
_END: tuple[str, Any] = ("", object())
_COMPARED_PARTS = 64
"""A larger branch is not compared with its siblings."""
_SMALL_VALUES = 200


# Limits of an outline: characters per string, fields per object, elements per array, values.
_EVERYTHING = (READ_CHARS, VALUES_READ, VALUES_READ, VALUES_READ)
_HEAD = (STRING_CHARS, 64, 4, 512)
"""For the outline of a tree that doesn't fit, whatever the tree's shape."""


class Place(NamedTuple):
    """A branch, by the name or index it has in the branch it is in.

    Linked, since a path for each part of a deep tree would cost its depth.
    """

    parent: Place | None
    token: str | int


def describe_tree(value: Any, path: NamePlace) -> Content:
    """Puts a tree into words; `path` names a place in the format's own terms."""
    small = small_outline(value)
    if small is not None:
        return Content((Passage("", small),))
    outline, complete = _outline(value, _EVERYTHING)
    if complete:
        return Content((Passage("", outline),))
    parts = _parts(value)
    if leading((part.text for part in parts), _SEPARATOR)[1]:
        # Too many values, but not too many words: one passage, as before the last measurements.
        return Content((Passage("", outline),), truncated=True)
    outline, _ = _outline(value, _HEAD)
    return content(
        outline,
        pack(parts, _SEPARATOR),
        _SEPARATOR,
        lambda group: _path(group, path),
        truncated=parts.truncated,
    )


def pointer(first: list[str | int], last: list[str | int]) -> str:
    """RFC 6901, where the last token may be a run: "/servers/3-7"."""
    differing = (at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    shared = next(differing, min(len(first), len(last)))
    tokens = [_escaped(token) for token in first[:shared]]
    if shared < min(len(first), len(last)):
        start, end = first[shared], last[shared]
        if type(start) is int and type(end) is int:
            tokens.append(f"{start}-{end}")
        elif not tokens:  # The members of the outermost object are named by the first of them.
            tokens.append(_escaped(start))
    return joined(tokens)


def _escaped(token: str | int) -> str:
    return str(token).replace("~", "~0").replace("/", "~1")


def joined(tokens: Sequence[str]) -> str:
    """The path of these tokens, without those that exceed `PATH_CHARS`."""
    path = ""
    for token in tokens:
        if len(path) + len(token) >= PATH_CHARS:
            break
        path += f"/{token}"
    return path


def _path(group: Sequence[Part], path: NamePlace) -> str:
    placed = [part for part in group if not part.opens] or group
    return path(_tokens(placed[0].place), _tokens(placed[-1].place))


def _tokens(place: Place | None) -> list[str | int]:
    tokens = []
    while place is not None:
        tokens.append(place.token)
        place = place.parent
    tokens.reverse()
    return tokens


def _outline(value: Any, limits: tuple[int, int, int, int]) -> tuple[str, bool]:
    """Names and strings, and whether that is everything in the tree.

    Level by level, so that a long first field does not crowd out its siblings.
    """
    string_chars, fields, elements, budget = limits
    parts: dict[str, None] = {}
    room = OUTLINE_CHARS + len(_SEPARATOR)
    complete = True
    waiting: deque[tuple[str, Any]] = deque((("", value),))
    while waiting and budget:
        name, child = waiting.popleft()
        budget -= 1
        part = in_words(name) if name else ""
        kind = type(child)
        if kind is str:
            if len(child) > string_chars:
                child = cut(child, string_chars)
                complete = False
            words = phrase(child)
            if words:
                part = f"{part} {words}" if part else words
        elif (kind is dict or kind is list) and len(waiting) >= budget:
            complete = False
        elif kind is dict:
            waiting.extend(islice(child.items(), fields))
            complete = complete and len(child) <= fields
        elif kind is list:
            wordy = (("", element) for element in child if type(element) in _WORDY)
            waiting.extend(islice(wordy, elements))
            complete = complete and (len(child) <= elements or next(wordy, None) is None)
        if part and part not in parts:
            room -= len(part) + len(_SEPARATOR)
            if room < 0:
                return _SEPARATOR.join(parts), False
            parts[part] = None
    return _SEPARATOR.join(parts), complete and not waiting


def small_outline(value: Any) -> str | None:
    """The only passage of a tree that is small and fits, as most do; None of others. It is
    `_outline` without what only others need, in half the time."""
    parts: dict[str, None] = {}
    waiting: list[tuple[str, Any]] = [*value.items()] if type(value) is dict else [("", value)]
    for name, child in waiting:
        part = short_in_words(name if len(name) <= STRING_CHARS else name[:STRING_CHARS])
        kind = type(child)
        if kind is str:
            if len(child) > STRING_CHARS:
                if len(child) > OUTLINE_CHARS:
                    return None
                words = phrase(child)
            else:
                words = short_phrase(child)
            if words:
                part = f"{part} {words}" if part else words
        elif kind is dict:
            waiting += child.items()
        elif kind is list:
            waiting += [("", element) for element in child if type(element) in _WORDY]
        if part:
            parts[part] = None
        if len(waiting) > _SMALL_VALUES:
            return None
    outline = _SEPARATOR.join(parts)
    return outline if len(outline) <= OUTLINE_CHARS else None


class _Frame(NamedTuple):
    place: Place | None
    children: Iterator[tuple[str | int, Any]]
    seen: set[tuple[str, ...]]
    start: int


def _parts(value: Any) -> Parts:
    """Names and strings in document order.

    A branch that says the same as a sibling before it is left out, so that a series that
    grows by another measurement keeps its text.
    """
    parts = Parts()
    root: list[tuple[str | int, Any]] = [("", value)]
    frames = [_Frame(None, iter(root), set(), 0)]
    outermost = 0  # The outermost level that was visited since the last part.
    budget = VALUES_READ
    while frames:
        place, children, seen, start = frames[-1]
        token, child = next(children, _END)
        if child is _END[1]:
            frames.pop()
            if frames and len(parts) - start <= _COMPARED_PARTS:
                texts = tuple([part.text for part in parts[start:]])
                if texts in frames[-1].seen:
                    parts.drop(start)
                frames[-1].seen.add(texts)
            continue
        budget -= 1
        if budget < 0 or parts.full:
            parts.truncated = True
            break
        level = len(frames)
        outermost = min(outermost, level)
        here = Place(place, token) if level > 1 else None
        name = in_words(token) if type(token) is str else ""
        kind = type(child)
        if (kind is dict or kind is list) and child:
            before = len(parts)
            if name:
                parts.add(here, (name,), outermost, opens=True)
                outermost = level + 1
            frames.append(_Frame(here, _children(child), set(), before))
            continue
        texts = _texts(name, child) if kind is str else (name,) if name else ()
        if kind is str and len(child) > READ_CHARS:
            parts.truncated = True
        if texts and texts not in seen:
            seen.add(texts)
            parts.add(here, texts, outermost)
            outermost = level + 1
    return parts


def _children(branch: Any) -> Iterator[tuple[str | int, Any]]:
    if type(branch) is dict:
        return iter(branch.items())
    return ((i, element) for i, element in enumerate(branch) if type(element) in _WORDY)


def _texts(name: str, text: str) -> tuple[str, ...]:
    if len(text) > PASSAGE_CHARS:
        return tuple(pieces(f"{name} {text}" if name else text, PASSAGE_CHARS))
    words = phrase(text)
    if name:
        words = f"{name} {words}" if words else name
    return tuple(lines(words, PASSAGE_CHARS))
