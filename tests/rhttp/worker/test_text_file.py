"""Text that people write: marks are taken off, other encodings are named, nothing of the content is quoted."""

from __future__ import annotations

import pytest

from rhttp.worker.text_file import NotText, decode_text, first_line


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_text_is_the_same_with_and_without_its_mark(encoding: str) -> None:
    """A byte order mark before UTF-8 is no part of the text; one further on stays."""
    assert decode_text("a = 1\n\ufeffé".encode(encoding)) == "a = 1\n\ufeffé"
    assert first_line("pässword\r\nx".encode(encoding)) == "pässword".encode()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_text_marked_as_another_encoding_is_named(encoding: str) -> None:
    """The message says which encoding it is and what to do, and nothing of what stands there."""
    for read in (decode_text, first_line):
        with pytest.raises(NotText, match=r"^is UTF-(16|32); save it as UTF-8$"):
            read("geheim".encode(encoding))  # type: ignore[operator]


@pytest.mark.parametrize("data", [b"geheim\xff", "geheim".encode("utf-16-le"), b"geheim\0"])
def test_text_that_is_none_is_refused(data: bytes) -> None:
    """Not UTF-8, or with NUL bytes: no text."""
    with pytest.raises(NotText, match="save it as UTF-8") as caught:
        decode_text(data)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", b""),
        (b"\n", b""),
        (b"a", b"a"),
        (b"a\n", b"a"),
        (b"a\r\n", b"a"),
        (b"a\r\r\n", b"a\r"),
        (b" a \nb", b" a "),
    ],
)
def test_first_line_ends_at_its_line_end(data: bytes, line: bytes) -> None:
    """One line end is taken off, and nothing else: spaces belong to a secret. Bytes that are no text pass."""
    assert first_line(data) == line
    assert first_line(b"\x80" + data) == b"\x80" + line
