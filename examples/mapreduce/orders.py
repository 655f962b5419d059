"""Orders: what is posted to ``/jobs``, from bytes to a value that can be worked on, and back.

An order is a JSON object, or text/plain with the rest in the query; see README.md. Everything unknown is refused. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import mapreduce.grep
import mapreduce.wordcount  # noqa: F401 - both register their kind
from mapreduce.kinds import KINDS, Kind
from mapreduce.problems import invalid, refuse
from mapreduce.texts import Text

MAX_CONTENT = 64 << 20
"""Bytes of an order; the texts in it cannot be longer."""
MAX_TEXTS = 100_000
_MAX_NAME = 1024
_MAX_SPREAD = 8
_MAX_QUERY = 64
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_MEMBERS = frozenset({"id", "kind", "options", "spread", "texts"})
_TEXT_MEMBERS = frozenset({"name", "text", "line"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A job as somebody wants it done. `given` are the options as they came, `options` as the kind reads them."""

    id: str | None
    kind: Kind[Any, Any]
    given: Mapping[str, object]
    options: object
    texts: tuple[Text, ...]
    spread: tuple[str, ...] = ()


def parse_order(content: bytes, content_type: str, query: str) -> Order:
    """Read an order; raises `Refused` with the status that says why not."""
    media, _, parameters = content_type.partition(";")
    match media.strip().lower():
        case "application/json":
            if query:
                raise invalid("an order in JSON takes nothing from the query but top")
            return _from_json(content)
        case "text/plain":
            if "charset" in parameters.lower() and "utf-8" not in parameters.lower():
                raise refuse("unsupported-content", 415, "Text must be UTF-8")
            return _from_text(content, query)
    raise refuse("unsupported-content", 415, "An order is application/json or text/plain")


def encode_order(order: Order, *, id: str, texts: Sequence[Text]) -> bytes:
    """The JSON of an order like this one, for a part of its texts."""
    members: dict[str, object] = {
        "id": id,
        "kind": order.kind.name,
        "options": order.given,
        "texts": [{"name": text.name, "text": text.text, "line": text.line} for text in texts],
    }
    if order.spread:
        members["spread"] = order.spread
    return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()


def _from_json(content: bytes) -> Order:
    try:
        value = json.loads(content.decode())
    except UnicodeDecodeError:
        raise invalid("the content is not UTF-8") from None
    except (ValueError, RecursionError):
        raise invalid("the content is not JSON") from None
    if not isinstance(value, dict):
        raise invalid("an order is a JSON object")
    unknown = value.keys() - _MEMBERS
    if unknown:
        raise invalid(f"an order has no member {min(unknown)[:80]!r}; known: {', '.join(sorted(_MEMBERS))}")
    texts = value.get("texts")
    if not isinstance(texts, list) or not 1 <= len(texts) <= MAX_TEXTS:
        raise invalid(f'texts must be a list of 1 to {MAX_TEXTS} objects like {{"name": "a", "text": "..."}}')
    options = value.get("options", {})
    if not isinstance(options, dict):
        raise invalid("options must be an object")
    return _order(
        id=value.get("id"),
        kind=value.get("kind"),
        options=options,
        spread=value.get("spread", []),
        texts=map(_text, texts),
    )


def _from_text(content: bytes, query: str) -> Order:
    try:
        text = content.decode()
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=_MAX_QUERY)
    except UnicodeDecodeError:
        raise invalid("the text is not UTF-8") from None
    except ValueError:
        raise invalid("the query is not a list of name=value") from None
    options: dict[str, object] = {}
    for name, value in pairs:
        if name in options:
            raise invalid(f"the query has {name[:80]!r} twice")
        options[name] = _plain(value) if name in ("ignore_case", "limit") else value
    name = str(options.pop("name", "text"))
    return _order(
        id=options.pop("id", None),
        kind=options.pop("kind", None),
        spread=[key for key in str(options.pop("spread", "")).split(",") if key],
        options=options,
        texts=[_text({"name": name, "text": text})],
    )


def _plain(value: str) -> object:
    """A boolean or number in a query."""
    if value in ("true", "false"):
        return value == "true"
    return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else value


def _order(*, id: object, kind: object, options: dict[str, object], spread: object, texts: Iterable[Text]) -> Order:
    if id is not None and not (isinstance(id, str) and _ID.fullmatch(id)):
        raise invalid("id must be 1 to 128 letters, digits, dots, dashes and underscores")
    known = KINDS.get(kind) if isinstance(kind, str) else None
    if known is None:
        raise invalid(f"kind must be one of {', '.join(sorted(KINDS))}")
    if not isinstance(spread, list) or len(spread) > _MAX_SPREAD or not all(map(_is_label_key, spread)):
        raise invalid(f"spread must be a list of at most {_MAX_SPREAD} keys of labels")
    return Order(
        id=id,
        kind=known,
        given=options,
        options=known.options(options),
        texts=tuple(texts),
        spread=tuple(spread),
    )


def _is_label_key(value: object) -> bool:
    return isinstance(value, str) and _LABEL_KEY.fullmatch(value) is not None


def _text(value: object) -> Text:
    if not isinstance(value, dict) or not value.keys() <= _TEXT_MEMBERS:
        raise invalid("a text is an object with name, text and, when it begins in the middle, line")
    name, text, line = value.get("name"), value.get("text"), value.get("line", 1)
    if not isinstance(name, str) or not 1 <= len(name) <= _MAX_NAME:
        raise invalid(f"the name of a text must have 1 to {_MAX_NAME} characters")
    if not isinstance(text, str):
        raise invalid("the text of a text must be a string")
    if type(line) is not int or not 1 <= line < 1 << 31:
        raise invalid("line must be a number from 1")
    try:
        name.encode()
        text.encode()
    except UnicodeEncodeError:
        raise invalid("a text has half of a surrogate pair in it") from None
    return Text(name=name, text=text, line=line)
