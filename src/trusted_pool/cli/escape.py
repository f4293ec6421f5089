"""Text of jobs and workers on a terminal: it may be coloured, and can do nothing else.

Escape sequences of a stranger's program can rename the window, write to the clipboard, hide or forge lines. Only
colour (SGR) sequences pass, with newline, tab and carriage return; all other control characters, and the characters
that turn the writing direction, are shown in a visible form.
"""

import re

_COLOUR = re.compile(r"\x1b\[[0-9;:]{0,64}m")
#: A text that may become a colour sequence when more arrives.
_BEGINNING = re.compile(r"\x1b(?:\[[0-9;:]{0,64})?\Z")
_UNSAFE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_RESET = "\x1b[0m"


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004 - two digits are enough


def one_line(text: str) -> str:
    """Return the text as one line without any control character."""
    flat = text.replace("\n", " ").replace("\r", " ").replace("\t", " ")
    return _UNSAFE.sub(_visible, flat)


class Screened:
    """A stream of text made safe for a terminal; sequences may be cut anywhere between pieces."""

    def __init__(self, *, colour: bool) -> None:
        """`colour` False: colour sequences are dropped."""
        self._colour = colour
        self._rest = ""
        self._coloured = False

    def feed(self, text: str) -> str:
        """Return what can be shown now."""
        text = self._rest + text
        beginning = _BEGINNING.search(text)
        self._rest = beginning[0] if beginning else ""
        return self._clean(text[: len(text) - len(self._rest)])

    def end(self) -> str:
        """Return what is left, and end the last colour."""
        rest, self._rest = self._clean(self._rest), ""
        if self._coloured:
            self._coloured = False
            rest += _RESET
        return rest

    def _clean(self, text: str) -> str:
        out, at = [], 0
        for match in _COLOUR.finditer(text):
            out.append(_UNSAFE.sub(_visible, text[at : match.start()]))
            if self._colour:
                self._coloured = True
                out.append(match[0])
            at = match.end()
        out.append(_UNSAFE.sub(_visible, text[at:]))
        return "".join(out)
