"""Tables of text for READMEs, papers and terminals."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Column, Table

from wmdd.text import escape_tex, printable

Rows = Sequence[Sequence[str]]


def percent(mean: float, std: float | None, plus_minus: str = " ± ") -> str:
    """Return a mean of fractions in %, and their sample standard deviation if there is one."""
    return plus_minus.join(f"{100 * value:.1f}" for value in (mean, std) if value is not None)


def of_students(count: int) -> str:
    """Return how many students the numbers of a table are means of."""
    return f"mean ± sample deviation of {count} students" if count > 1 else "one student"


def markdown_table(head: Sequence[str], rows: Rows) -> str:
    """Return a table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def latex_table(head: Sequence[str], rows: Rows, *, texts: int, name: str, caption: str) -> str:
    """Return a table in LaTeX, which needs the package booktabs.

    Args:
        texts: number of columns from the left that hold plain text; all others hold TeX.
        name: what the table is about, for a comment.
    """
    lines = [" & ".join([*map(escape_tex, row[:texts]), *row[texts:]]) + r" \\" for row in [head, *rows]]
    body = "\n".join([lines[0], r"\midrule", *lines[1:]])
    columns = "l" * texts + "r" * (len(head) - texts)
    return (
        f"% {printable(name)}\n"
        f"\\begin{{table}}\n\\centering\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\n"
        f"\\bottomrule\n\\end{{tabular}}\n\\caption{{{escape_tex(caption)}}}\n\\end{{table}}\n"
    )


def console_table(head: Sequence[str], rows: Rows, *, names: int, title: str, pad_edge: bool = True) -> Table:
    """Return a table for a terminal.

    Args:
        names: number of columns from the left that are never wrapped.
    """
    columns = [Column(text, no_wrap=position < names) for position, text in enumerate(head)]
    table = Table(*columns, title=title, pad_edge=pad_edge)
    for row in rows:
        table.add_row(*row)
    return table
