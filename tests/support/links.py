"""A link without a socket: records what an end writes and does to it, and delivers bytes when the test says so."""

from __future__ import annotations

from typing import Any


class FakeLink:
    """Stands in for a transport; `owner` is whoever the link was handed to last."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.owner: Any = None
        self.reading = True
        self.eof = False
        self.closed = False
        self.aborted = False
        self.truncated = False
        self.waiting = 0
        """Bytes that the peer has not taken; for the test to say."""

    def write(self, data: bytes) -> None:
        assert not self.closed, "written after close"
        assert not self.eof, "written after end of output"
        self.sent += data

    def write_eof(self) -> None:
        self.eof = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def set_protocol(self, protocol: Any) -> None:
        self.owner = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.truncated if name == "truncated" else default

    def take(self) -> bytes:
        """What was written since the last look."""
        data = bytes(self.sent)
        self.sent.clear()
        return data
