"""Evaluations of different items are never one unmarked line: in curves, pictures, tables, the report and the loggers."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest

from radar_callback.diagnosis import diagnose
from radar_callback.reporting.curves import breaks, curves, group_curves, overall_curve, segments
from radar_callback.reporting.figures import curves_figure
from radar_callback.reporting.html import charts, signals
from radar_callback.reporting.html.run import Run, load_run
from radar_callback.reporting.html.tidy import tidied
from radar_callback.reporting.item_break import closing_metrics
from radar_callback.reporting.loggers import log_result, table_rows
from radar_callback.reporting.publisher import Publisher
from radar_callback.reporting.radar_chart import first_of
from radar_callback.reporting.terminal import result_table
from tests.helpers.evaluations import evaluation

TREE = {"perception": ["colour", "shape"], "reasoning": ["count"]}
STEPS, OTHER_FROM = (0, 20, 40, 60), 40
"""Few items up to step 20, more from step 40 on: on these every ability scores 0.2 less, whatever the model."""


def score(name: str, step: int) -> float:
    return 0.5 + 0.005 * step - (0.2 if step >= OTHER_FROM else 0.0)


@pytest.fixture
def records():
    made = []
    for before, step in pairwise([-1, *STEPS]):
        record = evaluation(step, TREE, sds=score).to_record()
        record["subset"], record["share"] = ("more", 0.5) if step >= OTHER_FROM else ("few", 0.125)
        row = {"sds": 0.1, "se": 0.01, "count": 16, "learned": 2, "forgotten": 1}
        record["change"] = {"since": before, "abilities": dict.fromkeys(score_names(), row) if step else {}}
        record["image_gain"] = {"overall": {"sds": score("", step) - 0.4, "se": 0.01, "count": 9}}
        record["fluency"] = -1.0
        made.append(record)
    return made


def score_names():
    return [name for names in TREE.values() for name in names]


def test_a_point_without_a_score_stands_between(records):
    assert breaks(records) == [2]
    for line in (curves(records)["colour"], group_curves(records)["reasoning"], overall_curve(records)):
        assert line.steps == (0, 20, 40, 40, 60)
        assert math.isnan(line.sds[2]) and [len(part) for part in segments(line.sds, line)] == [2, 2]
    old = [{key: value for key, value in record.items() if key != "subset"} for record in records]
    assert breaks(old) == [2], "histories of earlier releases name the share only"
    assert breaks([{**record, "subset": "few"} for record in records]) == []


def test_no_line_or_band_of_the_picture_joins_both(records):
    figure = curves_figure(records)
    drawn = [line for axes in figure.axes for line in axes.lines if len(line.get_xdata()) > 2]
    assert len(drawn) == 3 + 3 + 1  # abilities, means, asymmetry
    for line in drawn:
        x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
        joined = [(a, b) for a, b, u, v in zip(x, x[1:], y, y[1:], strict=False) if np.isfinite(u) and np.isfinite(v)]
        assert joined == [(0, 20), (40, 60)]
    for axes in figure.axes:
        assert any(line.get_xdata() == [30, 30] for line in axes.lines if len(line.get_xdata()) == 2), "a mark"
        for band in axes.collections:
            for path in band.get_paths():
                assert not (path.vertices[:, 0].min() < 40 <= path.vertices[:, 0].max())
    assert "other items from here on" in " ".join(text.get_text() for text in figure.texts)


def test_no_line_or_band_of_the_report_joins_both(records, tmp_path):
    path = tmp_path / "radar_history.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    run = load_run(path, "run")
    figures = [
        *charts.ability_curves(run).values(),
        charts.means(run),
        signals.image_gain([run]),
        signals.fluency([run]),
    ]
    for figure in figures:
        lines = [trace for trace in figure.data if trace.mode == "lines+markers"]
        assert lines
        for line in lines:
            joined = [(a, b) for (a, u), (b, v) in pairwise(zip(line.x, line.y, strict=True)) if None not in (u, v)]
            assert joined == [(0, 20), (40, 60)]
        assert all(max(band.x) < 40 or min(band.x) >= 40 for band in figure.data if band.fill)
    assert "other items" in str(charts.means(run).layout.annotations)


def test_the_terminal_shows_a_bar_and_a_change_of_the_same_items(records):
    table = result_table(records[-1], records)
    column = next(column for column in table.columns if column.header == "since start")
    assert all(str(cell).count("┊") == 1 for cell in column.cells)
    changes = next(column for column in table.columns if column.header == "change")
    assert {str(cell) for cell in changes.cells} == {"+0.10"}
    first = result_table(records[2], records)
    assert {str(cell) for cell in next(c for c in first.columns if c.header == "change").cells} == {""}


def test_a_first_evaluation_is_one_of_the_same_items(records):
    assert first_of(records, records[-1])["step"] == 40 and first_of(records, records[2]) is None
    result = evaluation(40, TREE, sds=score)
    object.__setattr__(result, "subset", "more")
    assert [row[8] for row in table_rows(result, records[:2])] == [None] * 3


def test_lines_in_loggers_end_and_begin_at_the_same_step(records):
    class Logger:
        def __init__(self):
            self.rows = []

        def log_metrics(self, metrics, step):
            self.rows.append((step, dict(metrics)))

    published, logged = Logger(), Logger()
    publisher = Publisher([published])
    for i, record in enumerate(records):
        result = evaluation(record["step"], TREE, sds=score)
        publisher.publish(result, result.metrics(), records[: i + 1])
        log_result([logged], result, result.metrics(), records[: i + 1])
    for logger in (published, logged):
        line = [(step, row["radar/sds/colour"]) for step, row in logger.rows if "radar/sds/colour" in row]
        assert [step for step, _ in line] == [0, 20, 40, 40, 60]
        assert [value for _, value in line] == pytest.approx([0.5, 0.6, 0.7, 0.5, 0.6])
        for (step, value), (later, other) in pairwise(line):
            assert later == step or other - value == pytest.approx(0.1), "between steps a line is of the same items"


def test_what_a_line_ends_in(records):
    values = closing_metrics(records[:3], "mini")
    assert values["radar/mini/sds/colour"] == pytest.approx(0.7)
    assert values["radar/mini/accuracy/colour"] == pytest.approx(0.6 * 1.02 + 1 / 16)
    assert values["radar/mini/sds/perception"] == pytest.approx(0.7) == values["radar/mini/sds/overall"]
    assert values["radar/mini/asymmetry"] == pytest.approx(0.0)
    assert all(math.isnan(values[f"radar/mini/{key}"]) for key in ("sds_logprob/colour", "fluency", "image_gain"))
    assert closing_metrics(records) == closing_metrics(records[:1]) == closing_metrics([]) == {}
    del records[2]["change"]
    assert all(math.isnan(value) for value in closing_metrics(records[:3]).values()), "nothing is known"


def test_emergence_is_told_in_terms_of_the_latest_items(records):
    run = Run("run", [tidied(record) for record in records], diagnose(records), None, {})
    level = {one.name: one.level for one in run.diagnosis.emergence}
    assert level["colour"] == pytest.approx(records[-1]["abilities"]["colour"]["sds"])
