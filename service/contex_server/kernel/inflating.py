"""Decompresses text in steps of bounded size: a few bytes of a frame may hold gigabytes."""

from __future__ import annotations

from collections.abc import Iterator

import zstandard

MAGIC = b"\x28\xb5\x2f\xfd"
_WINDOW_BYTES = 8 * 1024 * 1024
"""What every decoder should support (RFC 8878); without a bound a frame may ask for 2 GiB."""
_PIECE = 64
"""Compressed bytes decompressed at a time. A block takes 4 bytes at least and holds 128 KiB, so
at most 2 MiB come out."""
_STEP_BYTES = 256 * 1024
FREE_BYTES = 64 * 1024 * 1024
MAX_RATIO = 10_000
"""What a text may expand to: so many times its size, and `FREE_BYTES` in any case."""


class Inflater:
    """Decompresses zstandard frames, one after the other.

    Attributes:
        taken: Compressed bytes that were decompressed.
        in_frame: Whether a frame has begun and not ended.
    """

    def __init__(self) -> None:
        self.taken = self._made = 0
        self.in_frame = False
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)
        self._frame = self._decompressor.decompressobj()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The text of the next bytes, a few MiB at most at a time; a step ends where a frame does.

        Raises:
            ValueError: They are damaged, need a large window, or expand to too much.
        """
        at = size = 0
        parts: list[bytes] = []
        while at < len(data):
            piece = data[at : at + _PIECE]
            try:
                parts.append(self._frame.decompress(piece))
            except zstandard.ZstdError as error:
                raise ValueError(_problem(error)) from error
            used = len(piece) - len(self._frame.unused_data)
            at += used
            self.taken += used
            size += len(parts[-1])
            self.in_frame = not self._frame.eof
            if not self.in_frame:
                self._frame = self._decompressor.decompressobj()
            if size >= _STEP_BYTES or not self.in_frame or at == len(data):
                self._made += size
                if self._made > FREE_BYTES + MAX_RATIO * self.taken:
                    raise ValueError(
                        f"it expands to more than {FREE_BYTES >> 20} MiB and {MAX_RATIO:,} times "
                        "its size; decompress it before it is imported"
                    )
                yield b"".join(parts)
                parts, size = [], 0


def _problem(error: zstandard.ZstdError) -> str:
    if "too much memory" in str(error):
        return f"it needs a window of more than {_WINDOW_BYTES >> 20} MiB"
    return str(error)
