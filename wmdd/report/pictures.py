"""Pictures of a run: image grids and curves."""

from __future__ import annotations

import base64
import contextlib
import io
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from rich.cells import cell_len
from torch import Tensor

from wmdd.data.decoding.pixels import png, to_image
from wmdd.report.fonts import has_all, label, lettering

MAX_ROWS, MAX_COLUMNS, CELL_PX = 50, 20, 64
MAX_NAMED = 12  # curves that a legend can name
LEGEND_WIDTH = 70  # characters
Series = tuple[str, Sequence[float], Sequence[float]]


def grid_png(rows: Sequence[tuple[str, Tensor]]) -> bytes:
    """Draw one row of (n, 3, h, w) uint8 images per class, with its name; at most 50 rows of 20 images."""
    rows = [(name, images[:MAX_COLUMNS]) for name, images in rows[:MAX_ROWS]]
    cell, gap = max(CELL_PX, rows[0][1].shape[-1]), 4
    names = [lettering(label(name)) for name, _ in rows]
    fonts = {file: ImageFont.truetype(file, 15) for _, file in names}
    left = max(round(fonts[file].getlength(name)) for name, file in names) + 3 * gap
    columns = max(len(images) for _, images in rows)
    sheet = Image.new("RGB", (left + columns * (cell + gap), gap + len(rows) * (cell + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for r, ((name, file), (_, images)) in enumerate(zip(names, rows, strict=True)):
        y = gap + r * (cell + gap)
        draw.text((gap, y + cell // 2), name, fill="black", font=fonts[file], anchor="lm")
        for c, image in enumerate(images):
            sheet.paste(_enlarged(image, cell), (left + c * (cell + gap), y))
    return png(sheet)


def strip_uri(images: Tensor) -> str:
    """Draw images (n, 3, h, w) side by side as a data URI."""
    images = images[:MAX_COLUMNS]
    cell = max(48, min(96, images.shape[-1]))
    sheet = Image.new("RGB", (len(images) * (cell + 2), cell), "white")
    for c, image in enumerate(images):
        sheet.paste(_enlarged(image, cell), (c * (cell + 2), 0))
    return "data:image/png;base64," + base64.b64encode(png(sheet)).decode()


@contextlib.contextmanager
def figure(width: float, height: float, panels: int = 1) -> Iterator[tuple[Any, Sequence[Any]]]:
    """Open a figure in the style of all our plots, its size in inches; yield it and its panels side by side.

    A user's matplotlibrc does not change it, and it does not change the settings of a user's plots.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        default = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
        style = {"svg.hashsalt": "wmdd", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
        matplotlib.rcParams.update({**default, **style})
        drawing = Figure(figsize=(width, height), layout="constrained")
        axes = drawing.subplots(1, panels, squeeze=False, sharey=True)
        for panel in axes[0]:
            panel.grid(alpha=0.25)
        yield drawing, list(axes[0])


def as_percent(axes: Any) -> None:
    """Show fractions on the vertical axis as percentages."""
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def svg_text(drawing: Any) -> str:
    """Return a figure as SVG for a page; characters that our font lacks are left to the browser's."""
    import matplotlib
    from matplotlib.text import Text

    fonts = "path" if has_all("".join(text.get_text() for text in drawing.findobj(Text))) else "none"
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": fonts}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        drawing.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()[out.getvalue().index("<svg") :]


def curves_svg(
    title: str,
    x_label: str,
    series: Sequence[Series],
    *,
    log: bool = False,
    percent: bool = False,
    log_x: bool = False,
) -> str:
    """Draw curves as SVG text, with their names below, where they hide nothing.

    Args:
        log, log_x: logarithmic axes; with `log_x`, each point of the first curve is marked and named on the axis.
    """
    names = [label(name, 28) for name, _, _ in series] if 1 < len(series) <= MAX_NAMED else []
    longest = max(map(cell_len, names), default=0)
    fitting = max(1, LEGEND_WIDTH // (longest + 9))  # names, each with its line and the space to the next
    lines = math.ceil(len(names) / fitting)
    with figure(4.6, 2.9 + 0.17 * lines) as (drawing, (axes,)):
        for position, (_, x, y) in enumerate(series):
            # matplotlib hides names that begin with _, and takes $ for mathematics: the names are set last, as text.
            axes.plot(x, y, label=str(position), linewidth=1.5, marker="o" if len(x) == 1 else None, markersize=3)
        axes.set(title=title, xlabel=x_label)
        if log_x:
            _mark_numbers(axes, series[0][1])
        else:
            axes.xaxis.get_major_locator().set_params(integer=True)  # epochs, steps and iterations are counted
        if log:
            axes.set_yscale("log")
        if percent:
            as_percent(axes)
        if names:
            handles = axes.get_legend_handles_labels()
            legend = drawing.legend(
                *handles, loc="outside lower center", frameon=False, fontsize=8, ncols=math.ceil(len(names) / lines)
            )
            for text, name in zip(legend.get_texts(), names, strict=True):
                text.set(text=name, parse_math=False)
        return svg_text(drawing)


def _mark_numbers(axes: Any, numbers: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(numbers, [f"{number:g}" for number in numbers], fontsize=8)
    axes.lines[0].set(marker="o", markersize=3)


def _enlarged(image: Tensor, cell: int) -> Image.Image:
    picture = to_image(image)
    # Nearest neighbour: the pixels of a small image are the result, blurring would hide them.
    return picture if picture.width == cell else picture.resize((cell, cell), Image.Resampling.NEAREST)
