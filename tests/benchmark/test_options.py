"""Options that a person cannot tell apart."""

from __future__ import annotations

import io
import json
import tarfile
import unicodedata

import pytest

from radar_callback.benchmark.options import look_alike_problem, same_number_problem
from radar_callback.benchmark.reader import Benchmark
from radar_callback.benchmark.record import to_fields
from radar_callback.benchmark.sources.jsonl import read_jsonl
from radar_callback.benchmark.sources.m3bench import read_m3bench
from radar_callback.benchmark.verify import verify
from radar_callback.benchmark.writer import write_shards
from radar_callback.errors import BenchmarkError, Reason

NFC = unicodedata.normalize("NFC", "café")
ALIKE = [
    ("true", "true "),
    ("red", "\tred"),
    ("red", "red\n"),
    ("a b", "a  b"),
    ("a b", "a\u00a0b"),
    ("a b", "a\u3000b"),
    (NFC, unicodedata.normalize("NFD", "café")),
    ("red", "red\u200b"),
    ("red", "\ufeffred"),
    ("red", "re\u00add"),
    ("red", "\u200ered"),
    ("red", "red\ufe0f"),
    ("red", "re\x00d"),
    ("red", "red\u2800"),
    ("5 µm", "5 μm"),
    ("five", "\ufb01ve"),
    ("A", "\uff21"),
    ("\u2126", "\u03a9"),
    ("-1", "\u22121"),
    ("it's", "it\u2019s"),
]
APART = [
    ("Red", "red"),
    ("x2", "x²"),
    ("H2O", "H₂O"),
    ("1/2", "½"),
    ("R", "ℝ"),
    ("e", "é"),
    ("ab", "a b"),
    ("if a:\n  b\nc", "if a:\n  b\n  c"),
    ("a\nb", "a b"),
    ("1", "1."),
    ("O", "0"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_alike(one, other):
    said = look_alike_problem(["x", one, other])
    assert said == f"options {one!a} and {other!a} look the same"


@pytest.mark.parametrize(("one", "other"), APART)
def test_apart(one, other):
    assert look_alike_problem([one, other]) is None


@pytest.mark.parametrize("nothing", ["\u200b", " \ufeff", "\u2800", "\u3164"])
def test_an_option_that_shows_nothing(nothing):
    assert look_alike_problem(["red", nothing]) == f"option {nothing!a} shows nothing"


def test_a_message_is_short():
    assert len(look_alike_problem(["x" * 9999, "x" * 9999 + " "])) < 250


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([1, 1.0, 2], "options 1 and 1.0 are the same number"),
        (["10", "1e1"], "options '10' and '1e1' are the same number"),
        (["0.50", 0.5], "options '0.50' and 0.5 are the same number"),
        (["-0.5", "0.5"], None),
        (["1/2", "0.5"], None),
        (["1 cm", "1.0 cm"], None),
        (["", "nan", "inf"], None),
    ],
)
def test_one_number_written_twice(options, said):
    assert same_number_problem(options) == said


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"options": ["red", "red ", "blue"], "answer": "red"}, "'red' and 'red ' look the same"),
        ({"answer": "blue", "distractors": ["red", "red\u200b"]}, r"'red' and 'red\\u200b' look the same"),
        ({"answer": "blue", "distractors": ["\u200b"]}, r"option '\\u200b' shows nothing"),
        ({"options": [1, 1.0, 2], "answer": 1}, "1 and 1.0 are the same number"),
        ({"answer": 2.50, "distractors": ["2.50"]}, "2.5 and '2.50' are the same number"),
    ],
)
def test_a_line_with_them_is_named_or_left_out(line, expected, tmp_path):
    good = {"question": "Q", "answer": "a", "distractors": ["b"]}
    lines = good, {"question": "It is", **line}
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(BenchmarkError, match=expected) as caught:
        read_jsonl(tmp_path)
    assert "questions.jsonl:2: Expected options that a person can tell apart, but option" in str(caught.value)
    _, left_out = read_jsonl(tmp_path, keep_going=True).samples
    assert left_out.reason is Reason.INVALID


def test_every_other_source_is_held_to_it(tmp_path, sample, groups):
    with pytest.raises(
        BenchmarkError, match=r"a person can tell apart, but in item 'two' options 'true' and 'true ' look"
    ):
        write_shards(
            [sample("one"), sample("two", answer="true", distractors=("true ",))],
            tmp_path / "b",
            name="b",
            groups=groups,
        )
    home = tmp_path / "m3" / "mathematical_reasoning"
    (home / "images").mkdir(parents=True)
    entry = {"question": "Q", "answer": "red", "distraction": ["red ", "blue"]}
    (home / "MathVista_1_pretrained_mllm_eval.json").write_text(json.dumps({"q": entry}))
    (left_out,) = read_m3bench(tmp_path / "m3").samples
    assert (left_out.reason, left_out.detail) == (Reason.INVALID, "its options 'red' and 'red ' look the same")


def test_shards_that_have_them_are_read_and_verify_says_so(tmp_path, sample):
    fields = to_fields(sample("one", distractors=("red ",)))
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, data in fields.items():
            info = tarfile.TarInfo(f"one.{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert Benchmark(tmp_path).read(0).candidates == ("red", "red ")
    assert [str(damage) for damage in verify(tmp_path)] == [
        "x.tar: item 'one': its options 'red' and 'red ' look the same"
    ]
