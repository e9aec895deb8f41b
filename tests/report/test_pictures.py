"""Names of classes in pictures: all are there, as they are, and nothing warns."""

import io
import re
import warnings

import matplotlib
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageChops

from wmdd.report import fonts, pictures
from wmdd.report.comparison_plots import plot_png
from wmdd.report.comparison_tables import latex, markdown
from wmdd.report.fonts import dejavu, label, lettering, with_escapes
from wmdd.report.page import _spread
from wmdd.report.pictures import curves_svg, grid_png

NAMES = [
    *("café", "$", "$$", "$$$", "$x$", "_b", "猫", "🙂", "قطة", "a\x1b[31m\nb", "x" * 200, "\udce9", "[red]", "", " "),
]


@pytest.fixture(autouse=True)
def _strict(monkeypatch):
    """Warnings are errors, and the machine's own fonts are left out."""
    monkeypatch.setattr(fonts, "_wide_fonts", lambda: iter(()))
    lettering.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    lettering.cache_clear()


def names_in(svg):
    """The texts of a drawing: matplotlib notes them next to their outlines, or leaves them to the browser."""
    return re.findall(r"<!-- (.*?) -->|<text[^>]*>(.*?)</text>", svg)


@pytest.mark.parametrize("start", range(0, len(NAMES), 5))
def test_legend_names_every_curve(start):
    names = NAMES[start : start + 5]
    svg = curves_svg("title", "step", [(name, [0, 1], [place + 1, 2]) for place, name in enumerate(names)], log=True)
    texts = [first or second for first, second in names_in(svg)]
    for name in names:
        if name.strip():
            assert label(name, 28) in texts
    svg.encode()


@pytest.mark.parametrize("names", ["0123456789", ("distilled, convnet3_w64", "random real, net"), ["猫" * 14] * 12])
def test_legend_hides_no_curve(names, monkeypatch):
    drawn = []
    monkeypatch.setattr(pictures, "svg_text", lambda figure: drawn.append(figure) or "")
    curves_svg("t", "x", [(name, [0, 1], [place, 2]) for place, name in enumerate(names)])
    (figure,) = drawn
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.draw_without_rendering()
        own, (axes,) = figure.legends[0].get_window_extent(), figure.axes
        assert own.y1 <= axes.get_tightbbox().y0
    assert figure.bbox.x0 <= own.x0 <= own.x1 <= figure.bbox.x1
    assert axes.bbox.height > 130  # of 290 pixels without a legend


def test_comparison_of_one_size_is_drawn_as_bars(monkeypatch):
    row = {"student": "net", "ipc": 1, "top1_last_mean": 0.5, "top1_last_std": 0.1, "protocol": {"hash": "a"}}
    rows = [row | {"method": method} for method in ("wmdd", "sre2l", "cda")]
    facts = {"set": "pets", "methods": ["cda", "wmdd", "sre2l"], "ipc": [1], "rows": rows}
    facts["full_data"] = {"net": {"top1": 0.9, "from": "teacher"}}
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *given, **options: drawn.append(figure))
    plot_png(facts)
    (axes,) = drawn[0].axes
    assert len(axes.patches) == 3
    assert [text.get_text() for text in axes.get_xticklabels()] == facts["methods"]
    assert [text.get_text() for text in axes.texts] == ["50.0"] * 3
    assert axes.get_xlabel() == "1 image per class"
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylim()[1] > 0.9
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["all data (the teacher)"]
    drawn.clear()
    plot_png(facts | {"full_data": {"net": None}})
    assert not drawn[0].legends


def test_weights_of_atoms_are_shown_in_short():
    assert _spread([1.0]) == ""
    assert _spread([0.5, 0.5]) == "0.500 each"
    assert _spread([0.25, 0.75]) == "0.250 to 0.750"
    assert _spread([1 / 3] * 3) == "0.333 each"


def test_text_that_our_font_lacks_is_left_to_browsers():
    plain = curves_svg("t", "x", [("café", [0, 1], [0, 1]), ("b", [0, 1], [1, 0])])
    wide = curves_svg("t", "x", [("猫", [0, 1], [0, 1]), ("<b>", [0, 1], [1, 0])])
    assert "<text" not in plain
    assert ">猫</text>" in wide
    assert ">&lt;b&gt;</text>" in wide


def test_grid_has_a_row_for_every_name():
    rows = [(name, torch.zeros(2, 3, 8, 8, dtype=torch.uint8)) for name in NAMES]
    sheet = Image.open(io.BytesIO(grid_png(rows)))
    assert sheet.height == 4 + len(NAMES) * 68
    assert sheet.width < 700  # a long name leaves room


def test_grid_draws_accents():
    def drawn(name):
        sheet = Image.open(io.BytesIO(grid_png([(name, torch.zeros(1, 3, 8, 8, dtype=torch.uint8))])))
        return sheet.crop((0, 0, 40, 68)).convert("L")

    assert ImageChops.difference(drawn("é"), drawn("ü")).getbbox() is not None  # boxes would be equal
    assert ImageChops.difference(drawn("é"), drawn("e")).getbbox() is not None


def test_fonts_of_the_machine_fill_in_for_ours(monkeypatch, tmp_path):
    assert lettering("café") == ("café", dejavu())
    assert lettering("猫 a") == (r"\u732b a", dejavu())
    monkeypatch.setattr(fonts, "_wide_fonts", lambda: iter(["broken.ttf", "wide.ttf"]))
    known = {dejavu(): frozenset(range(256)), "broken.ttf": frozenset(), "wide.ttf": frozenset(map(ord, "猫 a"))}
    monkeypatch.setattr(fonts, "_characters", known.__getitem__)
    lettering.cache_clear()
    assert lettering("猫 a") == ("猫 a", "wide.ttf")


def test_plots_of_the_user_and_ours_do_not_meet(monkeypatch):
    monkeypatch.setitem(matplotlib.rcParams, "backend", "pdf")
    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", True)
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 40.0)
    svg = curves_svg("t", "x", [("a_b", [0, 1], [0, 1]), ("$", [0, 1], [1, 0])])
    assert "<!-- a_b -->" in svg
    assert matplotlib.rcParams["text.usetex"]
    assert matplotlib.rcParams["backend"] == "pdf"


def test_label_is_short_and_composed():
    assert label("e\u0301") == "é"
    assert label("x" * 40) == "x" * 40
    assert len(label("x" * 41)) == 40
    assert label("a\nb") == r"a\nb"
    assert with_escapes("a猫") == r"a\u732b"


def test_comparison_shows_the_recipes_name_as_it_is():
    row = {"method": "wmdd", "ipc": 1, "student": "convnet3_w64", "protocol": {"name": "wmdd", "hash": "0"}}
    row |= {"top1_last_mean": 0.5, "top1_last_std": None, "runs": [1]}
    facts = {
        "set": "$a_b|猫$",
        "methods": ["wmdd"],
        "ipc": [1],
        "validation_images": 1,
        "validation_digest": "0",
        "teacher": {"model": "m", "top1": 0.5, "loaded": None},
        "labelled_with": [],
        "full_data": {"convnet3_w64": None},
        "rows": [row],
        "changes": {},
    }
    assert Image.open(io.BytesIO(plot_png(facts))).width > 400
    assert r"\$a\_b\|猫\$: top-1" in markdown(facts)
    assert r"\caption{\$a\_b|猫\$: top-1 in \%" in latex(facts)
    assert "wmdd & convnet3\\_w64 & $50.0$" in latex(facts).replace(r"{\boldmath $50.0$}", "$50.0$")
