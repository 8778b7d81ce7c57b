"""Names as they may be shown: a file's name may hold escape sequences and line ends, which a terminal would obey."""

from __future__ import annotations

# Control characters but for the tab and the line end, marks that turn the direction of text, and bytes of a name that
# are no UTF-8, which could not be printed at all.
_HIDDEN = (
    *(code for code in range(0x20) if chr(code) not in "\t\n"),
    *range(0x7F, 0xA0),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
    *range(0xD800, 0xE000),
)
_ESCAPES = {code: ascii(chr(code))[1:-1] for code in _HIDDEN}
_LINE_ENDS = {ord(sign): ascii(sign)[1:-1] for sign in "\t\n\u2028\u2029"}


def visible(text: str) -> str:
    """A text in which control characters are written out (``\\x1b``), all but tabs and line ends."""
    return text if text.isprintable() else text.translate(_ESCAPES)


def on_one_line(text: str) -> str:
    """A text with all control characters written out, line ends (``\\n``) as well."""
    return text if text.isprintable() else text.translate(_ESCAPES | _LINE_ENDS)
