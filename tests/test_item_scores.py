"""Item scores: kept compactly, compared item by item, with errors that know of shared images."""

import gzip
import math

import numpy as np
import pytest
import torch

from radar_callback.functional import discrimination_success
from radar_callback.item_history import ItemHistory, ItemHistoryError, read_item_scores
from radar_callback.item_scores import ItemIndex, ItemScores, clusters_of
from radar_callback.item_table import ItemTable
from radar_callback.journal import read_lines
from radar_callback.paired import change, clustered_errors, clustered_mean, image_gain
from radar_callback.ranks import Ranks
from radar_callback.scoring.reading import CandidateScores

N = 30


@pytest.fixture
def index():
    return ItemIndex(
        "made up",
        tuple(f"item {i}" for i in range(N)),
        tuple(("colour", "count", "maths")[i % 3] for i in range(N)),
        tuple(range(N)),
        tuple(2 + i % 4 for i in range(N)),
    )


def scores_of(index, seed, missing=()):
    rng = np.random.default_rng(seed)
    parts = [rng.dirichlet(np.ones(k)) for k in index.candidates]
    for i in missing:
        parts[i][:] = np.nan
    flat = np.concatenate(parts).astype(np.float32)
    logprobs = np.where(np.isnan(flat), np.nan, -rng.uniform(0.1, 20, len(flat))).astype(np.float32)
    success = np.array([bool(part[0] >= part.max()) for part in parts])
    return ItemScores(flat, logprobs, success)


def test_what_is_read_back_is_what_was_written(index, tmp_path):
    kept = ItemHistory(tmp_path / "radar_items.jsonl", index)
    written = {step: scores_of(index, step, missing=[4, 9]) for step in (0, 50, 100)}
    for step, scores in written.items():
        kept.append(step, scores)
    found_index, found = read_item_scores(kept.path)
    assert found_index == index and list(found) == [0, 50, 100]
    for step, scores in written.items():
        np.testing.assert_allclose(found[step].probabilities, scores.probabilities, atol=1e-5)
        np.testing.assert_allclose(found[step].logprobs, scores.logprobs, rtol=1e-3)
        np.testing.assert_array_equal(found[step].probabilities, kept.scores[step].probabilities)
    assert np.isnan(found[0].sds(index)[[4, 9]]).all() and np.isfinite(found[0].sds(index)).sum() == N - 2
    assert kept.before(100)[0] == 50 and kept.before(0) is None


def candidate_scores(logits):
    widest = max(map(len, logits))
    mask = torch.tensor([[k < len(row) for k in range(widest)] for row in logits])
    padded = torch.tensor([[*row, *[0.0] * (widest - len(row))] for row in logits], dtype=torch.float64)
    return CandidateScores(padded, padded - 9, mask)


def test_one_function_says_what_is_correct(tmp_path):
    """Ties are correct; what is told apart by less than the file's two bytes stays told apart."""
    logits = [[1.0, 1.0], [1.0, 1.0 + 1e-7], [1.0 + 1e-7, 1.0], [2.0, 1.0, 2.0], [0.0, 1e-6, -1.0], [math.nan, 0.0]]
    index = ItemIndex("ties", tuple("abcdef"), ("colour",) * 6, tuple(range(6)), tuple(map(len, logits)))
    scores = candidate_scores(logits)
    table = ItemTable(index)
    table.put(range(6), scores)
    gathered = table.scores(Ranks(torch.device("cpu")))
    assert gathered.correct(index).tolist() == [True, False, True, True, False, False]
    assert gathered.correct(index).tolist() == discrimination_success(scores.mean_logits, scores.mask).tolist()

    kept = ItemHistory(tmp_path / "radar_items.jsonl", index)
    kept.append(0, gathered)
    for read in (kept.scores[0], read_item_scores(kept.path)[1][0]):
        assert read.correct(index).tolist() == gathered.correct(index).tolist()
        assert read.probabilities[2] == read.probabilities[3]  # a tie, as far as two bytes can tell
    # Learned and forgotten are told from the same bits as accuracy.
    turned = candidate_scores([row if i != 1 else [1.0, 1.0] for i, row in enumerate(logits)])
    later = ItemTable(index)
    later.put(range(6), turned)
    row = change(index, kept.scores[0], kept.as_kept(later.scores(Ranks(torch.device("cpu")))))["colour"]
    assert (row["learned"], row["forgotten"]) == (1, 0)


def test_a_file_without_the_bits_is_read_by_the_same_rule(index, tmp_path):
    """Files of the first releases hold probabilities only."""
    old = ItemScores(np.float32([0.5, 0.5, 0.3, 0.7, math.nan, math.nan]), np.float32([-1] * 4 + [math.nan] * 2))
    three = ItemIndex("old", ("a", "b", "c"), ("colour",) * 3, (0, 1, 2), (2, 2, 2))
    kept = ItemHistory(tmp_path / "radar_items.jsonl", three)
    kept.append(0, old)
    assert b"correct" not in kept.path.read_bytes()
    assert read_item_scores(kept.path)[1][0].correct(three).tolist() == [True, False, False]


def test_it_is_as_small_as_it_says(tmp_path):
    count = 15_894
    big = ItemIndex("m3", tuple(map(str, range(count))), ("a",) * count, tuple(range(count)), (2,) * count)
    kept = ItemHistory(tmp_path / "items.jsonl", big)
    kept.append(0, scores_of(big, 0))
    before = kept.path.stat().st_size
    kept.append(10, scores_of(big, 1))
    assert 150_000 < kept.path.stat().st_size - before < 175_000


def test_a_torn_line_is_dropped_and_nothing_else(index, tmp_path):
    kept = ItemHistory(tmp_path / "items.jsonl", index)
    for step in (0, 10, 20):
        kept.append(step, scores_of(index, step))
    whole = kept.path.read_bytes()
    lines = read_lines(kept.path)
    for cut in (1, 30, len(lines[-1]) - 1):
        kept.path.write_bytes(whole[: -len(lines[-1]) + cut] if cut < len(lines[-1]) - 1 else whole[:-2])
        assert list(read_item_scores(kept.path)[1]) == [0, 10]
        again = ItemHistory(kept.path, index)
        again.append(20, scores_of(index, 20))
        assert kept.path.read_bytes() == whole


def test_going_back_and_scoring_again(index, tmp_path):
    kept = ItemHistory(tmp_path / "items.jsonl", index)
    for step in (0, 10, 20, 30):
        kept.append(step, scores_of(index, step))
    kept.rewind(10)
    assert list(read_item_scores(kept.path)[1]) == [0, 10]
    kept.append(15, scores_of(index, 1))
    kept.append(10, scores_of(index, 2))
    found = read_item_scores(kept.path)[1]
    assert list(found) == [0, 10, 15]
    np.testing.assert_allclose(found[10].probabilities, scores_of(index, 2).probabilities, atol=1e-5)


@pytest.mark.parametrize(
    "content", [b'{"step": -1, "benchmark": "x"}\n', b"hello\n", gzip.compress(b"x" * 99, mtime=0)]
)
def test_a_file_about_something_else_is_kept_aside(index, tmp_path, content, caplog):
    path = tmp_path / "items.jsonl"
    path.write_bytes(content)
    with pytest.raises(ItemHistoryError):
        read_item_scores(path)
    kept = ItemHistory(path, index)
    kept.append(0, scores_of(index, 0))
    assert (tmp_path / "items.1.jsonl").read_bytes() == content and list(read_item_scores(path)[1]) == [0]


def test_paired_differences_need_fewer_items():
    rng = np.random.default_rng(0)
    difficulty = rng.uniform(0.1, 0.9, 200)
    before, after = (difficulty + d + 0.02 * rng.standard_normal(200) for d in (0.0, 0.03))
    mean, se, _ = clustered_mean(after - before, np.arange(200))
    apart = math.hypot(*(values.std(ddof=1) / math.sqrt(200) for values in (before, after)))
    assert mean == pytest.approx(0.03, abs=3 * se) and se < apart / 8


def test_errors_of_items_that_share_images_hold_what_they_promise():
    """Nine of ten intervals of 90% hold the truth, where taking items as independent would be far off."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(40), 5)
    cells = [("maths", "algebra" if i < 100 else "area") for i in range(200)]
    held = {"clustered": 0, "independent": 0}
    for _ in range(400):
        values = 0.5 + (0.2 * rng.standard_normal(40))[clusters] + 0.05 * rng.standard_normal(200)
        errors = {
            "clustered": clustered_errors(values, cells, clusters)["maths"],
            "independent": clustered_errors(values, cells, np.arange(200))["maths"],
        }
        for name, se in errors.items():
            held[name] += abs(values.mean() - 0.5) < 1.645 * se
    assert 0.85 < held["clustered"] / 400 < 0.94 and held["independent"] / 400 < 0.65


def test_clusters_join_items_through_any_shared_image():
    assert clusters_of([[1], [2], [3, 2], [9], [1, 3]]) == (0, 0, 0, 3, 0)
    assert clusters_of([[], [], []]) == (0, 1, 2)


def test_change_counts_learned_and_forgotten(index):
    before, after = scores_of(index, 1, missing=[0]), scores_of(index, 2, missing=[3])
    rows = change(index, before, after)
    at = index.of_ability("colour")
    both = [i for i in at if i not in (0, 3)]
    was, now = before.sds(index), after.sds(index)
    best = [
        [s.probabilities[index.starts[i] : index.starts[i + 1]].argmax() == 0 for i in both] for s in (before, after)
    ]
    assert rows["colour"]["count"] == len(both) == 8
    assert rows["colour"]["sds"] == pytest.approx(float(np.mean(now[both] - was[both])), abs=1e-6)
    assert rows["colour"]["learned"] == sum(b and not a for a, b in zip(*best, strict=True))
    assert rows["colour"]["forgotten"] == sum(a and not b for a, b in zip(*best, strict=True))
    assert rows["colour"]["learned"] + rows["colour"]["forgotten"] > 0


def test_image_gain_is_over_items_scored_both_ways(index):
    sighted = scores_of(index, 1)
    blind = scores_of(index, 2, missing=[i for i in range(N) if i >= 12])
    rows = image_gain(index, sighted, blind)
    assert {name: row["count"] for name, row in rows.items()} == {"colour": 4, "count": 4, "maths": 4, "overall": 12}
    expected = np.mean((sighted.sds(index) - blind.sds(index))[[0, 3, 6, 9]])
    assert rows["colour"]["sds"] == pytest.approx(float(expected), abs=1e-6)
    assert image_gain(index, sighted, scores_of(index, 2, missing=range(N))) == {}
