"""The pictures are judged by eye; here is what must hold of any of them: nothing cut off, covered, or left to luck."""

import io
import itertools
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import matplotlib as mpl
import pytest
from matplotlib.text import Annotation, Text
from PIL import Image

from radar_callback.reporting.curves import curves
from radar_callback.reporting.figures import curves_figure
from radar_callback.reporting.radar_chart import first_of, radar_figure
from radar_callback.reporting.style import line_style, to_png
from tests.helpers.evaluations import history

STEPS = range(0, 1600, 100)
MANY = {"perception": [f"ability_number_{i}" for i in range(24)], "reasoning": ["b" * 60]}
# A font without a glyph is the machine's business; the picture is still drawn.
pytestmark = pytest.mark.filterwarnings("ignore:Glyph .* missing from font")
SHAPES = {
    "eighteen abilities": {},
    "three abilities": {"tree": {"perception": ["colour", "count"], "reasoning": ["symmetry"]}},
    "one ability": {"tree": {"all": ["colour"]}},
    "one group": {"tree": {"all": ["colour", "count", "text"]}},
    "five groups": {"tree": {f"group {i}": [f"a{i}", f"b{i}"] for i in range(5)}},
    "too many, too long": {"tree": MANY},
    "all at chance": {"sds": lambda *_: 0.5},
    "different chances": {"chance": lambda name: 1 / (2 + len(name) % 4)},
    "gaps": {"sds": lambda name, step: math.nan if name == "text" or (name == "size" and step % 200) else 0.7},
    "no score at all": {"sds": lambda *_: math.nan},
    "names with markup": {"tree": {"$g_1": ["$a", "b$", "$\\frac$", "\\alpha", "[red]x", "𝛼 名前"]}},
}


def extent(text):
    """Of the text alone, without its leader line."""
    return Text.get_window_extent(text)


def labels(axes):
    return [child for child in axes.get_children() if isinstance(child, Annotation)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("points", [1, 16])
def test_every_shape_of_history_is_drawn_within_the_sheet(shape, points):
    records = history(STEPS[:points], **SHAPES[shape])
    for figure in (curves_figure(records), radar_figure(records[-1], first_of(records, records[-1]))):
        figure.draw_without_rendering()
        sheet = figure.bbox
        texts = [text for axes in figure.axes for text in axes.texts] + list(figure.texts)
        for text in texts:
            box = extent(text)
            assert box.x0 >= sheet.x0 - 1 and box.x1 <= sheet.x1 + 1, text.get_text()
            assert box.y0 >= sheet.y0 - 1 and box.y1 <= sheet.y1 + 1, text.get_text()


@pytest.mark.parametrize("shape", ["eighteen abilities", "all at chance", "different chances", "gaps", "five groups"])
def test_no_name_at_the_end_of_a_line_covers_another_or_the_next_panel(shape):
    figure = curves_figure(history(STEPS, **SHAPES[shape]))
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [extent(label) for label in labels(axes)]
        for one, other in itertools.combinations(boxes, 2):
            assert min(one.y1, other.y1) - max(one.y0, other.y0) < 1.5, "labels overlap"
        for box, neighbour in itertools.product(boxes, figure.axes):
            assert not box.overlaps(neighbour.get_window_extent()), "label runs into a panel"


def test_the_curves_are_the_records():
    records = history(STEPS)
    figure = curves_figure(records)
    drawn_lines = {tuple(line.get_ydata()) for axes in figure.axes for line in axes.lines}
    for line in curves(records).values():
        assert line.sds in drawn_lines
    assert [axes.get_title(loc="left") for axes in figure.axes][:2] == ["perception", "reasoning"]
    asymmetry = figure.axes[3].lines[1].get_ydata()
    assert asymmetry[-1] == records[-1]["groups"]["perception"]["sds"] - records[-1]["groups"]["reasoning"]["sds"]
    assert f"{records[-1]['abilities']['colour']['sds']:.2f}  colour" in [t.get_text() for t in figure.axes[0].texts]


def test_panels_share_their_scale_and_show_chance():
    figure = curves_figure(history(STEPS, chance=lambda name: 0.25 if name == "colour" else 0.5))
    first, second = figure.axes[:2]
    assert first.get_ylim() == second.get_ylim()
    dashed = {line.get_ydata()[0] for line in first.lines if line.get_linestyle() == "--"}
    assert dashed == {0.25, 0.5} and first.get_ylim()[0] < 0.25


def test_the_radar_chart_shows_scores_chance_and_the_first_evaluation():
    records = history(STEPS)
    axes = radar_figure(records[-1], records[0]).axes[0]
    by_label = {line.get_label(): line.get_ydata() for line in axes.lines}
    scores = [row["sds"] for row in records[-1]["abilities"].values()]
    assert list(by_label["step 1,500"]) == [*scores, scores[0]]
    assert list(by_label["step 0"])[:2] == [row["sds"] for row in records[0]["abilities"].values()][:2]
    assert set(by_label["chance"]) == {0.5}
    assert first_of(records, records[0]) is None and first_of([], records[0]) is None


def test_no_history_is_a_clear_error():
    with pytest.raises(ValueError, match="at least one evaluation"):
        curves_figure([])


def test_a_picture_for_a_readme_is_wide_and_small():
    records = history(STEPS)
    for figure in (curves_figure(records), radar_figure(records[-1])):
        png = to_png(figure, width=1600)
        assert Image.open(io.BytesIO(png)).width == 1600 and len(png) < 250_000


def test_same_picture_every_time_and_in_any_thread():
    records = history(STEPS)

    def draw(_):
        return to_png(curves_figure(records), width=300), to_png(radar_figure(records[-1]), width=300)

    with ThreadPoolExecutor(2) as pool:
        assert len({*pool.map(draw, range(3)), draw(0)}) == 1


def test_a_users_settings_do_not_break_the_pictures():
    records = history(STEPS[:3], **SHAPES["names with markup"])
    with mpl.rc_context({"text.usetex": True, "axes.facecolor": "black", "axes.grid": True, "figure.dpi": 37}):
        to_png(curves_figure(records), width=300)
        to_png(radar_figure(records[-1]), width=300)


def test_pyplot_is_never_imported():
    code = (
        "import sys; from tests.helpers.evaluations import history; r = history([0, 1]);"
        "from radar_callback.reporting import figures, radar_chart, style;"
        "style.to_png(figures.curves_figure(r), 200); style.to_png(radar_chart.radar_figure(r[-1]), 200);"
        "sys.exit('matplotlib.pyplot' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_no_two_of_many_lines_look_the_same():
    assert len({line_style(i) for i in range(36)}) == 36
