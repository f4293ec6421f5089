"""Changing the text of the allowlist: one entry changes, and nothing of what its operator wrote besides."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trusted_pool.coordinator.allowlist_text import with_entry, without_entry

WORDS = st.text(max_size=8)
ENTRIES = st.dictionaries(
    WORDS, WORDS | st.integers() | st.dictionaries(WORDS, WORDS, max_size=2), min_size=1, max_size=4
)
SPACE = st.text(" \t\r\n", max_size=4)


@st.composite
def texts(draw: st.DrawFn, least: int = 0) -> tuple[list[str], str]:
    """A list of entries, each written somehow, with any space between; and its whole text."""
    entries = draw(st.lists(ENTRIES, min_size=least, max_size=5))
    parts = []
    for entry in entries:
        indent = draw(st.none() | st.integers(0, 4) | st.just("\t"))
        colon, comma = draw(st.sampled_from([(":", ","), (": ", ", "), (" : ", " ,")]))
        parts.append(
            json.dumps(entry, indent=indent, ensure_ascii=draw(st.booleans()), separators=(comma.rstrip(" "), colon))
            if indent is not None
            else json.dumps(entry, ensure_ascii=draw(st.booleans()), separators=(comma, colon))
        )
    text = draw(SPACE) + "["
    for number, part in enumerate(parts):
        text += draw(SPACE) + part + draw(SPACE) + ("," if number < len(parts) - 1 else "")
    return parts, text + draw(SPACE) + "]" + draw(SPACE)


@given(texts(), ENTRIES, st.sampled_from(["utf-8", "utf-8-sig"]))
def test_one_more_stands_at_the_end_and_all_else_as_it_was(
    made: tuple[list[str], str], entry: dict[str, Any], encoding: str
) -> None:
    parts, text = made
    new = with_entry(text.encode(encoding), entry)
    assert json.loads(new) == [*(json.loads(part) for part in parts), entry]
    written = new.decode(encoding)
    at = 0
    for part in parts:
        at = written.index(part, at) + len(part)
    if parts:
        end = text.rindex(parts[-1]) + len(parts[-1])
        assert written.startswith(text[:end])
        assert written.endswith(text[end:])
    assert without_entry(new, len(parts)).decode(encoding) == text or not parts


@given(texts(least=1), st.data())
def test_one_less_leaves_the_others_as_they_were(made: tuple[list[str], str], data: st.DataObject) -> None:
    parts, text = made
    index = data.draw(st.integers(0, len(parts) - 1))
    new = without_entry(text.encode(), index).decode()
    kept = parts[:index] + parts[index + 1 :]
    assert json.loads(new) == [json.loads(part) for part in kept]
    at = 0
    for part in kept:
        at = new.index(part, at) + len(part)


USUAL = """[
  {
    "worker_id": "a",
    "endpoint": "http://w1:8443"
  },
  {
    "worker_id": "b",
    "endpoint": "http://w2:8443"
  }
]
"""
TABLE = """[
    {"worker_id": "a",   "endpoint": "http://w1:8443"},
    {"worker_id": "bbb", "endpoint": "http://w2:8443"}
]
"""


def test_it_is_written_as_those_before_it() -> None:
    new = {"worker_id": "c", "labels": {"x": "ü"}}
    more = with_entry(USUAL.encode(), new).decode()
    assert more == USUAL.replace(
        '2:8443"\n  }', '2:8443"\n  },\n  {\n    "worker_id": "c",\n    "labels": {\n      "x": "ü"\n    }\n  }'
    )
    assert without_entry(more.encode(), 2).decode() == USUAL
    more = with_entry(TABLE.encode(), new).decode()
    assert more == TABLE.replace('2:8443"}', '2:8443"},\n    {"worker_id": "c", "labels": {"x": "ü"}}')
    assert with_entry(b"[]\n", {"a": "b"}).decode() == '[\n  {\n    "a": "b"\n  }\n]\n'
    assert without_entry(b'[\n  {"a": "b"}\n]\n', 0) == b"[]\n"
    assert without_entry(TABLE.encode(), 0).decode() == '[\n    {"worker_id": "bbb", "endpoint": "http://w2:8443"}\n]\n'
