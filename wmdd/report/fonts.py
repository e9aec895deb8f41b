"""Names in pictures: in DejaVu Sans, which matplotlib brings, else in a font of this machine, else as escapes."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator

from wmdd.text import escape_all, printable

LONGEST = 40  # characters of a name; more would leave no room for what it names
# Fonts for the scripts and symbols that DejaVu lacks; colour fonts have no outlines to draw.
_WIDE = re.compile(
    r"CJK|Han Sans|WenQuanYi|YaHei|SimHei|SimSun|PingFang|Heiti|Hiragino|Malgun|Nanum|Gothic|Unicode MS|Unifont"
    r"|Fallback|Noto Sans|Noto Emoji|Symbola|Segoe UI|Nirmala|Leelawadee|FreeSans"
)


def label(name: str, longest: int = LONGEST) -> str:
    """Return a name as a picture's label: in one line, and shortened in its middle if it is long."""
    text = printable(unicodedata.normalize("NFC", name))
    if len(text) <= longest:
        return text
    return f"{text[: longest // 2]}…{text[-(longest // 2 - 1) :]}"


@functools.cache
def dejavu() -> str:
    """Return the file of matplotlib's font."""
    from matplotlib.font_manager import findfont

    return str(findfont("DejaVu Sans"))


@functools.cache
def _characters(file: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


def _wide_fonts() -> Iterator[str]:
    from matplotlib.font_manager import fontManager

    for font in sorted(fontManager.ttflist, key=lambda font: (font.name, font.fname)):
        if font.style == "normal" and _WIDE.search(font.name) and "Color" not in font.name:
            yield font.fname


def has_all(text: str, file: str | None = None) -> bool:
    """Whether a font, by default DejaVu Sans, has every character of a text."""
    return {*map(ord, text)} <= _characters(file or dejavu())


def with_escapes(text: str) -> str:
    """Return a text with an escape such as ``\\u732b`` for each character that DejaVu Sans lacks."""
    return "".join(character if has_all(character) else escape_all(character) for character in text)


@functools.cache
def lettering(text: str) -> tuple[str, str]:
    """Return a text that can be drawn, and the file of the font that has it."""
    if has_all(text):
        return text, dejavu()
    file = next((file for file in _wide_fonts() if has_all(text, file)), None)
    return (text, file) if file else (with_escapes(text), dejavu())
