"""The history file: what is on the disk after every kind of accident, and that no point is ever lost or doubled."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from radar_callback import history as module
from radar_callback.history import History, HistoryError, read_history


def point(step, value=0.5, benchmark="mini", **extra):
    row = {"sds": value, "sds_logprob": value, "accuracy": 1.0, "count": 8, "se": 0.01, "chance": 0.5}
    return {
        "step": step,
        "benchmark": benchmark,
        "abilities": {"colour": {**row, "group": "perception"}},
        "groups": {"perception": row},
        "overall": row,
        **extra,
    }


def steps(records):
    return [record["step"] for record in records]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "logs" / "radar_history.jsonl"


def filled(path, *at, **extra):
    history = History(path)
    for step in at:
        history.append(point(step, **extra))
    return history


def test_what_is_appended_is_on_the_disk_and_read_back(path):
    history = filled(path, 0, 200, overhead=0.01)
    assert path.read_bytes().count(b"\n") == 2
    assert read_history(path) == history.records == History(path).records
    assert history.records[1] == point(200, overhead=0.01)
    assert (200, "mini") in history and (200, "other") not in history and len(history) == 2
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_nan_is_null_and_foreign_types_are_refused_before_anything_is_written(path):
    history = filled(path, 0)
    before = path.read_bytes()
    with pytest.raises(HistoryError, match="cannot be kept"):
        history.append(point(1, overhead=torch.tensor(1.0)))
    with pytest.raises(HistoryError, match="'step' to be a whole number"):
        history.append({"benchmark": "mini"})
    assert path.read_bytes() == before
    history.append(point(2, value=float("nan"), overhead=float("inf")))
    assert history.records[1]["overall"]["sds"] is None and history.records[1]["overhead"] is None
    assert b"NaN" not in path.read_bytes()


@pytest.mark.parametrize("cut", [1, 5, 9, 40, 200])
def test_torn_last_line_is_mended_and_said(path, cut, caplog):
    filled(path, 0, 1)
    whole = path.read_bytes()
    path.write_bytes(whole + json.dumps(point(2)).encode()[:cut])
    assert steps(read_history(path)) == [0, 1]
    assert len(path.read_bytes()) == len(whole) + cut, "a reader leaves the file alone"
    with caplog.at_level(logging.WARNING):
        history = History(path)
    assert "cut off" in caplog.text and path.read_bytes() == whole
    history.append(point(2))
    assert steps(read_history(path)) == [0, 1, 2]


@pytest.mark.parametrize("tail", [b"\0" * 100, json.dumps(point(2)).encode()[:50] + b"\0" * 100])
def test_zeros_left_by_a_power_cut_are_dropped(path, tail):
    filled(path, 0, 1)
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert steps(History(path).records) == [0, 1]
    assert path.read_bytes() == whole


def test_last_line_without_its_newline_is_kept(path):
    filled(path, 0, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert steps(read_history(path)) == [0, 1]
    History(path).append(point(2))
    assert steps(read_history(path)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello\n", "line 1 is none"),
        (b"hello", "last line begins with b'hello'"),
        (b'{"a": 1}\n', "line 1 is none: expected 'step'"),
        (b"[1]\n", "line 1 is none: expected an object"),
        (b'{"step": 1, "benchmark": 2}\n', "expected 'benchmark' to be a name"),
        (b'{"step": true, "benchmark": "b"}\n', "expected 'step'"),
        (b'{"step": 1, "benchmark": "b", "abilities": 3}\n', "'abilities' to be an object"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "radar history"),
        (
            json.dumps(point(1, value="high")).encode() + b"\n",
            "'sds' of 'overall' to be a number or null, but got 'high'",
        ),
        (b'{"step": 1}garbage\n' + json.dumps(point(2)).encode() + b"\n", "line 1 is none"),
    ],
)
def test_a_file_that_is_no_history_gets_one_clear_line_and_stays_as_it_is(path, content, message):
    path.parent.mkdir()
    path.write_bytes(content)
    for reader in (read_history, History):
        with pytest.raises(HistoryError) as error:
            reader(path)
        assert message in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)
    assert path.read_bytes() == content


def test_missing_file_is_a_clear_error_for_a_reader_and_an_empty_history_for_a_run(path):
    with pytest.raises(HistoryError, match="does not exist"):
        read_history(path)
    assert History(path).records == [] and not path.exists()


def test_rewind_moves_the_abandoned_branch_aside(path):
    history = filled(path, 0, 3, 6, 9, 12)
    assert history.rewind(6) == 2
    assert steps(history.records) == steps(read_history(path)) == [0, 3, 6]
    assert steps(read_history(history.discarded_path)) == [9, 12]
    assert history.rewind(6) == 0
    history.append(point(9, value=0.9))
    assert history.rewind(6) == 1
    lines = history.discarded_path.read_bytes().splitlines()
    assert [json.loads(line)["overall"]["sds"] for line in lines] == [0.5, 0.5, 0.9], "every branch is kept"


def test_a_crash_between_the_two_files_of_a_rewind_loses_and_doubles_nothing(path, monkeypatch):
    history = filled(path, 0, 3, 6)
    write = module.write_lines

    def power_cut(target, lines):
        if target == path:
            raise OSError("power cut")
        write(target, lines)

    monkeypatch.setattr(module, "write_lines", power_cut)
    with pytest.raises(OSError, match="power cut"):
        history.rewind(3)
    monkeypatch.undo()
    assert steps(read_history(path)) == [0, 3, 6]
    assert History(path).rewind(3) == 1
    assert steps(read_history(path)) == [0, 3]
    assert len(history.discarded_path.read_bytes().splitlines()) == 1


def test_merge_is_a_union_and_the_checkpoint_is_right(path):
    carried = [point(0), point(3, value=0.7), point(3, benchmark="other"), point(6)]
    history = filled(path, 0, 3, 4)
    assert history.merge(carried) == 3
    assert [(r["step"], r["benchmark"], r["overall"]["sds"]) for r in read_history(path)] == [
        (0, "mini", 0.5),
        (3, "mini", 0.7),
        (3, "other", 0.5),
        (4, "mini", 0.5),
        (6, "mini", 0.5),
    ]
    assert [r["overall"]["sds"] for r in read_history(history.discarded_path)] == [0.5]
    before = path.stat().st_mtime_ns
    assert history.merge(carried) == 0 and path.stat().st_mtime_ns == before


def test_merge_into_another_folder_carries_the_whole_curve(path, tmp_path):
    history = History(tmp_path / "version_1" / path.name)
    history.merge(filled(path, 0, 3, 6).state())
    history.append(point(9))
    assert steps(read_history(history.path)) == [0, 3, 6, 9]


def test_a_second_point_at_the_same_place_replaces_the_first_and_keeps_it(path):
    history = filled(path, 0, 3)
    history.append(point(3, value=0.9))
    history.append(point(3, benchmark="other"))
    history.append(point(1))
    assert [(r["step"], r["benchmark"]) for r in read_history(path)] == [
        (0, "mini"),
        (1, "mini"),
        (3, "mini"),
        (3, "other"),
    ]
    assert read_history(path) == history.records and history.records[2]["overall"]["sds"] == 0.9
    assert read_history(history.discarded_path) == [point(3)]


def test_start_fresh_keeps_every_earlier_run(path):
    for run in range(3):
        history = History.start_fresh(path)
        assert history.records == []
        for step in (0, 1, 2):
            history.append(point(step, value=run / 10))
        history.rewind(1)
    assert [read_history(path.with_name(f"radar_history.{n}.jsonl"))[0]["overall"]["sds"] for n in (1, 2)] == [0.0, 0.1]
    assert read_history(path.with_name("radar_history.2.discarded.jsonl"))[0]["overall"]["sds"] == 0.1
    assert read_history(path)[0]["overall"]["sds"] == 0.2
    assert len(list(path.parent.iterdir())) == 6


def test_state_is_builtins_that_a_safe_load_takes_and_not_the_history_itself(path, tmp_path):
    history = filled(path, 0)
    torch.save(history.state(), tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == history.records
    history.state()[0]["abilities"].clear()
    assert history.records == [point(0)]


def test_a_full_disk_leaves_the_file_as_it_was(path, monkeypatch):
    history = filled(path, 0)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            history.append(point(1))
    assert path.read_bytes() == before and steps(history.records) == [0]
    history.append(point(1))
    assert steps(read_history(path)) == [0, 1]


def test_a_deleted_file_is_written_again_in_full(path):
    history = filled(path, 0, 1)
    path.unlink()
    history.append(point(2))
    assert steps(read_history(path)) == [0, 1, 2]


def test_every_append_is_synced_before_it_returns(path, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(
        module.os, "fsync", lambda fd: (synced.append(str(Path(f"/proc/self/fd/{fd}").readlink())), real(fd))
    )
    history = History(path)
    history.append(point(0))
    assert synced[-1] == str(path.parent), "the folder too, when the file is new"
    synced.clear()
    history.append(point(1))
    assert synced == [str(path)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(0, 8), st.sampled_from(["mini", "other"])),
            st.tuples(st.just("resume"), st.integers(0, 8), st.just("")),
            st.tuples(st.just("torn"), st.integers(1, 60), st.just("")),
        ),
        max_size=14,
    )
)
def test_no_sequence_of_runs_loses_or_doubles_a_point(actions):
    """Against a dictionary and a list: what a person would keep by hand."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "radar_history.jsonl"
        history, model, written, checkpoints = History(path), {}, [], {}
        for number, (action, at, benchmark) in enumerate(actions):
            if action == "append":
                record = point(at, benchmark=benchmark, number=number)
                history.append(record)
                model[at, benchmark] = record
                written.append(record)
                checkpoints[at] = (history.state(), dict(model))
            elif action == "torn":
                with path.open("ab") as file:
                    file.write(json.dumps(point(99)).encode()[:at])
                history = History(path)
            elif at in checkpoints:
                state, saved = checkpoints[at]
                history = History(path)
                history.rewind(at)
                history.merge(state)
                model = {key: record for key, record in model.items() if key[0] <= at} | saved
            expected = sorted(model.values(), key=lambda r: (r["step"], r["benchmark"]))
            assert sorted(history.records, key=lambda r: (r["step"], r["benchmark"])) == expected
            assert (read_history(path) if path.exists() else []) == history.records
        files = [file for file in (path, history.discarded_path) if file.exists()]
        on_disk = [json.loads(line)["number"] for file in files for line in file.read_bytes().splitlines()]
        assert set(on_disk) == {record["number"] for record in written}


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from radar_callback.history import History
history = History({path!r})
for step in range(100_000):
    history.append({{"step": step, "benchmark": "mini", "abilities": {{}}, "groups": {{}}, "overall": {{}}, "pad": "x" * 20_000}})
    print(step, flush=True)
"""


def test_kill_9_of_a_writer_loses_no_point_that_append_returned_from(path):
    source = str(Path(module.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER.format(tests=source, path=str(path))],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
    )
    first = process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    said = (first + process.stdout.read()).split()
    process.wait(timeout=10)
    acknowledged = [int(text) for text in said if text]
    history = History(path)
    assert len(acknowledged) > 3 and steps(history.records)[: len(acknowledged)] == acknowledged
    assert steps(history.records) == list(range(len(history)))
    assert len(history) - len(acknowledged) <= 1
