"""The stdout of an `exec` program: events (JSON objects), and other output."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

# An event is one line; what is longer is output, whatever it holds.
LINE_BYTES_MAX = 1 << 20


class JsonLines:
    """Feed it bytes; it calls `on_object` for each line that is a JSON object and
    `on_text` with all else, in order. Holds at most one line."""

    def __init__(
        self,
        on_object: Callable[[Mapping[str, object], int], None],
        on_text: Callable[[bytes], None],
    ) -> None:
        self._on_object = on_object
        self._on_text = on_text
        self._line = bytearray()  # the begun line, while it may still be an object
        self._in_text = False  # in the middle of a line that is no object

    def feed(self, data: bytes) -> None:
        """The next bytes, cut anywhere."""
        text = bytearray()
        for piece in data.splitlines(keepends=True):
            self._feed_piece(piece, text)
        if text:
            self._on_text(bytes(text))

    def end(self) -> None:
        """The stream has ended: a last line without a newline counts as a line."""
        text = bytearray()
        self._close_line(text)
        if text:
            self._on_text(bytes(text))

    def _feed_piece(self, piece: bytes, text: bytearray) -> None:
        ends = piece.endswith(b"\n")
        begins_object = self._line or piece[:32].lstrip().startswith(b"{")
        if self._in_text or not begins_object:
            text += piece
            self._in_text = not ends
            return
        self._line += piece
        if ends:
            self._close_line(text)
        elif len(self._line) > LINE_BYTES_MAX:
            text += self._line
            self._line.clear()
            self._in_text = True

    def _close_line(self, text: bytearray) -> None:
        line = bytes(self._line)
        self._line.clear()
        found = _parse(line)
        if found is None:
            text += line
            return
        if text:  # keep the order: what came before goes out before
            self._on_text(bytes(text))
            text.clear()
        self._on_object(found, len(line))


def _parse(line: bytes) -> Mapping[str, object] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
