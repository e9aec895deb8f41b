"""Text for terminals, pages and messages: names from users made safe, counts, errors, and hints for wrong names."""

from __future__ import annotations

import codecs
import difflib
import re
from collections.abc import Collection, Iterable
from typing import Any

# Control codes, which a terminal obeys, line ends, changes of the direction of writing, and parts of no character.
_UNSEEN = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SPELLED = {"±": "+-", "…": "~", "–": "-", "—": "-", "•": "*", "’": "'"}  # noqa: RUF001
SPELL = "wmdd.spell"


def printable(text: str, keep: str = "") -> str:
    """Return text in one line, with escapes such as ``\\x1b`` for all that would not be seen but what to keep."""
    return _UNSEEN.sub(lambda found: found[0] if found[0] in keep else _escape(found[0]), text)


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a name that is not UTF-8, as `os.fsdecode` keeps it
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def on_a_page(value: Any) -> Any:
    """Return a template's value with control codes as escapes; HTML that is ready, such as a drawing, as it is."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def escape_all(text: str) -> str:
    """Return text in ASCII, with an escape for each other character."""
    return "".join(character if " " <= character <= "~" else _escape(character) for character in text)


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Return in ASCII what an encoding lacks; an error handler of `codecs`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_SPELLED.get(character) or _escape(character) for character in missing), error.end


codecs.register_error(SPELL, _spell)


def escape_markdown(text: str) -> str:
    """Return text in which Markdown finds nothing to format."""
    return re.sub(r"([\\`*_\[\]<>|#$~])", r"\\\1", printable(text))


_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def escape_tex(text: str) -> str:
    """Return text in which TeX finds no command."""
    escaped = re.sub(r"[\\~^&%$#_{}]", lambda found: _TEX.get(found[0], "\\" + found[0]), printable(text))
    return escaped.replace("±", r"$\pm$")


def counted(count: int, one: str, many: str) -> str:
    """Return a count with what follows it: the first words for 1, the others for every other number."""
    return f"{count:,} {one if count == 1 else many}"


def two_digits(value: float) -> str:
    """Return a positive number rounded to two digits, as an estimate is written: ``0.031``, ``8.3``, ``12,000``."""
    return f"{float(f'{value:.2g}'):,.10g}"


def rough_time(seconds: float) -> str:
    """Return an estimated duration, rounded to two digits: up to 100 s, 100 min, 48 h, then in days."""
    if seconds < 1:
        return "under 1 s"
    for unit, length in (("days", 48 * 3600), ("h", 100 * 60), ("min", 100)):
        if seconds >= length:
            return f"{two_digits(seconds / {'days': 86400, 'h': 3600, 'min': 60}[unit])} {unit}"
    return f"{round(float(f'{seconds:.2g}'))} s"


def rough_bytes(count: float) -> str:
    """Return an estimated number of bytes in decimal units."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{two_digits(count / size)} {unit}"
    return f"{two_digits(count / 1e3)} kB"


def and_more(count: int) -> str:
    """Return how many more there are, in parentheses after a blank; nothing for 0."""
    return f" (and {count:,} more)" if count else ""


def one_line(error: object, length: int | None = None) -> str:
    """Return an error's text in one line, cut to a length in characters, or its type if it has none."""
    return " ".join(str(error).split())[:length] or type(error).__name__


def near_names(name: str, names: Iterable[str], count: int = 3) -> list[str]:
    """Return the names that a wrong one may stand for, the nearest first; none if none is near.

    Case, blanks and punctuation do not count, and a beginning stands for the shortest names that begin so.
    """
    wanted, plain = _plain(name), dict[str, str]()
    for known in names:
        plain.setdefault(_plain(known), known)
    begin = sorted((known for known in plain if len(wanted) > 2 and known.startswith(wanted)), key=len)
    near = dict.fromkeys([*difflib.get_close_matches(wanted, plain, count), *begin])
    return [plain[known] for known in near][:count]


def did_you_mean(near: Collection[str]) -> str:
    """Return a question with the names that a wrong one may stand for, to end a message with; nothing for no names."""
    return f"; did you mean {' or '.join(near)}?" if near else ""


def unknown(option: str, name: object, known: Iterable[str], noun: str = "", common: Collection[str] = ()) -> str:
    """Return the message that refuses an unknown name: the option, what can be chosen, and the nearest names.

    Args:
        option: as the user writes it, such as ``--method``, or ``data.path=`` with the sign that joins it to the name.
        noun: what the option names; default: its last word, such as ``method``.
        common: names to list in place of `known` where these are too many.
    """
    names = list(known)
    near = near_names(str(name), names)
    noun = noun or re.split(r"[\W_]+", option.rstrip("="))[-1]
    choice = f"; common ones are {', '.join(common)}" if common else f"; choose from {', '.join(names)}"
    given = f"{option}{name}" if option.endswith("=") else f"{option} {name}"
    return f"{given}: no such {noun}{'' if common and near else choice}{did_you_mean(near)}"


def suggestion(name: str, names: Iterable[str], otherwise: str) -> str:
    """Return a hint for a wrong name: the names that it may stand for, or `otherwise` if none is near."""
    return did_you_mean(near_names(name, names)).removeprefix("; ") or otherwise


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()
