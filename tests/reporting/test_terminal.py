import io
import math
import re

import pytest
from rich.console import Console

from radar_callback.reporting.terminal import print_result, sparkline, summary_line
from tests.helpers.evaluations import evaluation, history

NAN = math.nan


def printed(result, records=(), encoding="utf-8", **console):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    print_result(result, records, Console(file=file, width=80, **console))
    file.flush()
    return raw.getvalue().decode(encoding)


def cells(text, name):
    (line,) = [line for line in text.splitlines() if line.strip().startswith(name + " ")]
    return line.split()[1:]


def test_the_line_for_the_log():
    tree = {"perception": ["colour"], "reasoning": ["maths", "symmetry"]}
    scores = {"colour": 0.98, "maths": 0.3, "symmetry": 0.4}
    result = evaluation(600, tree, sds=lambda name, step: scores[name], chance=lambda name: 0.3, count=384)
    assert summary_line(result) == (
        "radar @ step 600: overall 0.56 (chance 0.30) · perception 0.98 · reasoning 0.35 · best colour 0.98 · "
        "1,152 items in 4.2 s"
    )


def test_the_line_names_what_was_not_scored():
    line = summary_line(evaluation(0, failures={"bad_image": 1200, "too_long": 3}))
    assert line.endswith("2,304 items in 4.2 s · 1,203 not scored (1,200 bad_image, 3 too_long)")
    nothing = summary_line(evaluation(0, sds=lambda *_: NAN))
    assert "nan" not in nothing and "overall" not in nothing


def test_the_table_says_what_the_result_says_in_80_columns():
    records = history(range(0, 1600, 100))
    text = printed(records[-1], records)
    assert max(map(len, text.splitlines())) <= 80
    last, before = (record["abilities"]["material"]["sds"] for record in (records[-1], records[-2]))
    material = cells(text, "material")
    assert material[0] == f"{last:.2f}" and material[3] == f"{last - before:+.2f}" and material[-1] == "128"
    assert len(material[2]) == 12 and material[2][-1] == sparkline([last])
    order = [
        name for line in text.splitlines() if (name := line.split(" ")[0]) in ("perception", "reasoning", "overall")
    ]
    assert order == ["perception", "reasoning", "overall"]
    assert "counting_difference" in text and "2,304 items in 4.2 s" in text
    assert "\x1b" not in text, "no colours where there is no terminal"
    assert "\x1b[" in printed(records[-1], records, force_terminal=True)


def test_a_single_evaluation_needs_no_history_and_shows_no_change():
    result = evaluation(0, {"all": ["colour"]}, failures={"bad_image": 2})
    text = printed(result)
    assert text == printed(result.to_record(), [result.to_record()])
    assert len(cells(text, "colour")) == 5 and "since start" not in text and "not scored: 2 bad_image" in text
    assert not re.search(r"^all", text, re.MULTILINE), "one group is no section"


def test_names_are_cut_and_numbers_are_not_where_there_is_little_room():
    long = {"perception": ["general_visual_question_answering_of_everyday_scenes", "colour"], "reasoning": ["maths"]}
    records = [evaluation(step, long).to_record() for step in (0, 100)]
    text = printed(records[-1], records)
    assert max(map(len, text.splitlines())) <= 80
    (line,) = [line for line in text.splitlines() if "general_visual" in line]
    assert len([cell for cell in line.split() if re.fullmatch(r"[+-]?\d\.\d\d", cell)]) == 5 and "…" in line


def test_a_change_is_one_of_the_same_items():
    tree = {"perception": ["colour"]}
    values = {0: (0.4, 1.0), 100: (0.9, 0.125), 200: (0.5, 1.0)}
    records = []
    for step, (sds, share) in values.items():
        records.append({**evaluation(step, tree, sds=lambda *_, value=sds: value).to_record(), "share": share})
    assert cells(printed(records[-1], records), "colour")[3] == "+0.10"
    thinned = printed(records[1], records)
    assert len(cells(thinned, "colour")) == 6, "there is nothing to compare with yet"
    assert "a 0.125 share of all" in thinned


def test_later_points_and_other_benchmarks_are_left_out():
    records = [*history([0, 10, 20]), evaluation(5, benchmark="other").to_record()]
    assert printed(records[1], records) == printed(records[1], records[:2])


def test_names_and_gaps_are_shown_as_they_are():
    text = printed(evaluation(0, {"g": ["[bold]x", "y"], "h": ["z"]}, sds=lambda n, s: NAN if n == "y" else 0.5))
    assert "[bold]x" in text and cells(text, "y")[:2] == ["-", "-"]


def test_a_terminal_that_knows_only_ascii():
    records = history([0, 1000])
    assert printed(records[-1], records, encoding="ascii").isascii()


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], ""), ([0.0], "▁"), ([1.0], "█"), ([-1, 2], "▁█"), ([NAN, 0.5], " ▅"), ([0.0] * 99 + [1.0], "▁" * 11 + "█")],
)
def test_sparkline(values, expected):
    assert sparkline(values) == expected
