"""Text out of files that people write: byte order marks are taken off, other encodings are named with the mend.

Notepad and PowerShell put U+FEFF before UTF-8, or write UTF-16. A mark that stays becomes the first letter of a
password, which nobody can type then, or a syntax error that nobody can see.
"""

from __future__ import annotations

import codecs
from typing import Final

__all__ = ["NotText", "decode_text", "first_line"]

# UTF-32's little-endian mark begins with UTF-16's: longest first.
_OTHER_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


class NotText(ValueError):  # noqa: N818 - says what is the case, like every error of ours
    """A file is not UTF-8 text; the message goes on after its name and ends in the mend. It quotes nothing of it."""


def decode_text(data: bytes) -> str:
    """The text without its mark.

    Raises:
        NotText: another encoding, or NUL bytes, which no text has.
    """
    data = _unmarked(data)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise NotText(f"is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    if "\0" in text:
        raise NotText("holds NUL bytes, as UTF-16 does; save it as UTF-8")
    return text


def first_line(data: bytes) -> bytes:
    """The first line without mark and line end: where secrets stand. Any other bytes pass as they are.

    Raises:
        NotText: marked as another encoding.
    """
    return _unmarked(data).split(b"\n", 1)[0].removesuffix(b"\r")


def _unmarked(data: bytes) -> bytes:
    for mark, name in _OTHER_MARKS:
        if data.startswith(mark):
            raise NotText(f"is {name}; save it as UTF-8")
    return data.removeprefix(codecs.BOM_UTF8)
