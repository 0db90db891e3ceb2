"""What a file makes of its reader: a few bytes can't make it large, or busy for long."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
import zstandard
from contex_server.kernel import inflating
from contex_server.kernel.blocks import BlockDamaged, decode_block, packed
from contex_server.kernel.config import Limits
from contex_server.kernel.inflating import Inflater
from contex_server.transfer import cutting, items, lines
from contex_server.transfer.detection import detect, make_reader
from contex_server.transfer.items import FileFormat, MalformedFile

CLOUD, LINES, LEGACY = FileFormat.CLOUD_EVENTS, FileFormat.JSON_LINES, FileFormat.LEGACY_JSON
EVENT = b'{"specversion":"1.0","id":"a","source":"b","type":"c"}\n'


def repeated(byte: bytes, blocks: int, window: int = 7) -> bytes:
    """A frame of blocks that repeat a byte 128 Ki times."""
    heads = [(131_072 << 3) | 2 | (n == blocks - 1) for n in range(blocks)]
    return (
        b"\x28\xb5\x2f\xfd"
        + bytes([0, window << 3])
        + b"".join(head.to_bytes(3, "little") + byte for head in heads)
    )


def fed(data: bytes, format: FileFormat, size: int = 1 << 20) -> Iterator[items.Item | None]:
    reader = make_reader(format, Limits())
    for at in range(0, len(data), size):
        yield from reader.feed(data[at : at + size])
    yield from reader.finish()


def test_a_step_is_small_whatever_it_comes_from() -> None:
    steps = list(map(len, Inflater().feed(repeated(b"a", 64))))
    assert sum(steps) == 64 * 131_072
    assert max(steps) < 3 * 1024 * 1024


def test_text_is_the_same_in_steps() -> None:
    frames = [EVENT * 1_000, b"", EVENT, b"x" * 1_000_000]
    inflater = Inflater()
    data = b"".join(map(zstandard.ZstdCompressor().compress, frames))
    assert b"".join(b"".join(inflater.feed(data[n : n + 7])) for n in range(0, len(data), 7)) == (
        b"".join(frames)
    )
    assert (inflater.taken, inflater.in_frame) == (len(data), False)


def test_expansion_and_window_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MalformedFile, match=r"window of more than 8 MiB .*line 1"):
        list(fed(repeated(b"a", 1, window=17), LINES))
    monkeypatch.setattr(inflating, "FREE_BYTES", 1024 * 1024)
    monkeypatch.setattr(inflating, "MAX_RATIO", 100)
    with pytest.raises(MalformedFile, match=r"more than 1 MiB and 100 times its size"):
        list(fed(repeated(b"a", 16), LINES))


@pytest.mark.parametrize("format", [LINES, CLOUD])
@pytest.mark.parametrize("byte", [b"\n", b" "])
def test_white_space_ends(format: FileFormat, byte: bytes) -> None:
    with pytest.raises(MalformedFile, match=r"64 KiB of white space|more than 7,340,032 bytes"):
        list(fed(repeated(byte, 64), format))


def test_a_compressed_file_has_no_more_lines_than_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_FREE_ITEMS", 100)
    data = zstandard.ZstdCompressor().compress(EVENT * 1_000)
    with pytest.raises(MalformedFile, match="more than 100 lines in "):
        list(fed(data, CLOUD))
    assert len(list(fed(EVENT * 1_000, CLOUD))) >= 2


def test_a_format_is_detected_by_its_beginning() -> None:
    with pytest.raises(MalformedFile, match="unknown format"):
        detect(repeated(b"a", 1_000), complete=False)
    skipped = b"\x50\x2a\x4d\x18\x00\x00\x00\x00"
    frames = zstandard.ZstdCompressor().compress(b" ") + skipped * 10_000
    assert detect(frames[:50_000], complete=False) is None
    with pytest.raises(MalformedFile, match="unknown format"):
        detect(frames, complete=False)


def test_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing comes of what is read, too."""
    monkeypatch.setattr(items, "TURN_S", 0.0)
    monkeypatch.setattr(cutting, "_LOOKS", 100)
    for data, format in (
        (b"\n" * 1_000, LINES),
        (b"[" + b'{"a":' * 1_000, CLOUD),
        (b'{"events":[' + b'{"a":' * 1_000, LEGACY),
    ):
        reader = make_reader(format, Limits())
        turns = [item for item in reader.feed(data) if item is None]
        assert len(turns) >= 10


def test_a_line_has_no_more_values_than_a_payload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contex_server.transfer.event_json._ELSE_BYTES", 1_000)
    data = EVENT[:-2] + b',"data":[' + b"0," * 2_000 + b"0]}\n"
    reader = make_reader(CLOUD, Limits(payload_bytes=1_000))
    with pytest.raises(MalformedFile, match="more than 2,000 values"):
        list(reader.feed(data))


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        ((2**31, 0), "not a block"),
        ((1_000_000, 999_999), "a block of 1,000,000 events"),
        ((10, 500_000), "of other lengths"),
    ],
)
def test_a_block_is_what_it_says(head: tuple[int, int], problem: str) -> None:
    count, ids = head
    data = packed(struct.pack("<II", count, ids) + bytes(4 * min(count, 10**6)) + b"\n" * ids)
    assert len(data) < 1_000
    with pytest.raises(BlockDamaged, match=problem):
        decode_block(data)


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_the_former_service_is_read_as_it_comes(size: int) -> None:
    event = b'{"sequence":"1-%d","event_type":"a","data":{"t":"]}"}}'
    text = (
        b'\xef\xbb\xbf{"note":"\\"events\\": [", "n": {"events": []}, "events" : [\n'
        + b",\n".join(event % n for n in range(3))
        + b'], "meta": {"a": [1, {}]}, "count": 3}'
    )
    found = [i for i in fed(text, LEGACY, size) if isinstance(i, items.Events)]
    assert [e.id for i in found for e in i.entries] == [b"1-0", b"1-1", b"1-2"]
    for bad in (text[:-2], text.replace(b"],", b"],]"), text.replace(b": 3}", b": 4}")):
        with pytest.raises(MalformedFile):
            list(fed(bad, LEGACY, size))
    with pytest.raises(MalformedFile, match="64 KiB besides the objects"):
        list(fed(b'{"a":"' + b"x" * 70_000, LEGACY, size * 1_000))
