"""Changes of the text of `workers.json` that leave all else in it as it was written: order, spacing, escapes.

The file is its operator's: what a command changes is one entry and not a character more.
"""

import json
from collections.abc import Mapping
from typing import Any

_SPACE = " \t\r\n"
_INDENT = "  "


class _Text:
    """A JSON list as text, and where its entries are."""

    def __init__(self, raw: bytes) -> None:
        """`raw`: a valid allowlist."""
        self._encoding = json.detect_encoding(raw)
        self.text = raw.decode(self._encoding, "surrogatepass")
        self.spans: list[tuple[int, int]] = []
        decode = json.JSONDecoder().raw_decode
        self.open = self._after_space(0)
        at = self._after_space(self.open + 1)
        while self.text[at] != "]":
            _, end = decode(self.text, at)
            self.spans.append((at, end))
            at = self._after_space(end)
            if self.text[at] == ",":
                at = self._after_space(at + 1)
        self.close = at

    def _after_space(self, at: int) -> int:
        while self.text[at] in _SPACE:
            at += 1
        return at

    def spliced(self, start: int, end: int, new: str) -> bytes:
        """Return it with another text from `start` to `end`."""
        return (self.text[:start] + new + self.text[end:]).encode(self._encoding, "surrogatepass")


def with_entry(raw: bytes, entry: Mapping[str, Any]) -> bytes:
    """Return a valid allowlist with one more entry at its end, written as those before it are."""
    now = _Text(raw)
    text = now.text
    if not now.spans:
        return now.spliced(now.open, now.close + 1, "[\n" + _indented(_lines(entry, _INDENT), _INDENT) + "\n]")
    start, end = now.spans[-1]
    lead = text[now.spans[-2][1] : start] if len(now.spans) > 1 else "," + text[now.open + 1 : start]
    last = text[start:end]
    if "\n" not in last:
        return now.spliced(end, end, lead + json.dumps(entry, ensure_ascii=False))
    margin = text[text.rfind("\n", 0, start) + 1 : start]
    margin = margin[: len(margin) - len(margin.lstrip(_SPACE))]
    inner = last[last.index("\n") + 1 :]
    inner = inner[: len(inner) - len(inner.lstrip(_SPACE))]
    step = inner.removeprefix(margin) if inner.startswith(margin) else _INDENT
    return now.spliced(end, end, lead + _indented(_lines(entry, step or _INDENT), margin).removeprefix(margin))


def without_entry(raw: bytes, index: int) -> bytes:
    """Return a valid allowlist without the entry at `index`, from 0."""
    now = _Text(raw)
    start, end = now.spans[index]
    if len(now.spans) == 1:
        return now.spliced(now.open + 1, now.close, "")
    if index == len(now.spans) - 1:
        return now.spliced(now.spans[index - 1][1], end, "")
    return now.spliced(start, now.spans[index + 1][0], "")


def _lines(entry: Mapping[str, Any], step: str) -> str:
    return json.dumps(entry, ensure_ascii=False, indent=step)


def _indented(text: str, margin: str) -> str:
    return "\n".join(margin + line for line in text.split("\n"))
