"""The metric against a plain loop over items, and the promise that ranks and order change no bit."""

import math
import pickle
import random
import statistics

import pytest
import torch
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributed as dist

from radar_callback import SoftDiscriminationScore
from radar_callback.errors import BenchmarkError, ConfigError

TREE = {"perception": {"colour": [], "size": []}, "reasoning": {"maths": ["algebra", "area"]}}


def make_items(n: int, seed: int = 0) -> list[dict]:
    rng = random.Random(seed)
    items = []
    for _ in range(n):
        k = rng.randint(2, 5)
        ability, category = rng.choice([("colour", None), ("size", None), ("maths", "algebra"), ("maths", "area")])
        items.append(
            {
                "ability": ability,
                "category": category,
                "logits": [rng.gauss(0, 2) for _ in range(k)],
                "logprobs": [rng.gauss(-5, 2) for _ in range(k)],
                "target": rng.randrange(k),
            }
        )
    return items


def feed(metric: SoftDiscriminationScore, items: list[dict]) -> SoftDiscriminationScore:
    width = max((len(item["logits"]) for item in items), default=1)
    pad = lambda name: torch.tensor([item[name] + [math.nan] * (width - len(item[name])) for item in items])  # noqa: E731
    if items:
        metric.update(
            pad("logits"),
            ~pad("logits").isnan(),
            torch.tensor([item["target"] for item in items]),
            [item["ability"] for item in items],
            logprobs=pad("logprobs"),
            category=[item["category"] for item in items],
        )
    return metric


def softmax_at(values: list[float], target: int) -> float:
    return 1 / sum(math.exp(v - values[target]) for v in values)


def by_hand(items: list[dict], ability: str, category: str | None) -> dict:
    chosen = [i for i in items if (i["ability"], i["category"]) == (ability, category)]
    sds = [softmax_at(i["logits"], i["target"]) for i in chosen]
    return {
        "sds": statistics.mean(sds),
        "sds_logprob": statistics.mean(softmax_at(i["logprobs"], i["target"]) for i in chosen),
        "accuracy": statistics.mean(max(i["logits"]) == i["logits"][i["target"]] for i in chosen),
        "se": statistics.stdev(sds) / len(sds) ** 0.5,
        "chance": statistics.mean(1 / len(i["logits"]) for i in chosen),
        "count": len(chosen),
    }


def test_agrees_with_a_loop_over_items():
    items = make_items(200)
    got = feed(SoftDiscriminationScore(TREE), items).compute()
    colour = by_hand(items, "colour", None)
    assert got["abilities"]["colour"].pop("group") == "perception"
    assert got["abilities"]["colour"] == pytest.approx(colour, abs=1e-6)
    # By category first: the mean of two means, whatever their sizes.
    algebra, area = by_hand(items, "maths", "algebra"), by_hand(items, "maths", "area")
    assert algebra["count"] != area["count"], "the items should tell macro from micro averages"
    maths = got["abilities"]["maths"]
    for name in ("sds", "sds_logprob", "accuracy", "chance"):
        assert maths[name] == pytest.approx((algebra[name] + area[name]) / 2, abs=1e-6)
    assert maths["se"] == pytest.approx(math.hypot(algebra["se"], area["se"]) / 2, abs=1e-6)
    assert maths["count"] == algebra["count"] + area["count"]
    size = got["abilities"]["size"]
    assert got["groups"]["perception"]["sds"] == pytest.approx((colour["sds"] + size["sds"]) / 2, abs=1e-6)
    assert got["overall"]["sds"] == pytest.approx((colour["sds"] + size["sds"] + maths["sds"]) / 3, abs=1e-6)
    assert got["overall"]["count"] == 200


@settings(max_examples=30)
@given(st.randoms(use_true_random=False), st.integers(1, 7))
def test_order_and_batching_change_no_bit(rng, parts):
    items = make_items(60)
    whole = feed(SoftDiscriminationScore(TREE), items).compute()
    shuffled = list(items)
    rng.shuffle(shuffled)
    metric = SoftDiscriminationScore(TREE)
    for part in range(parts):
        feed(metric, shuffled[part::parts])
    assert metric.compute() == whole


def test_weight_zero_leaves_an_item_out_whatever_its_row_holds():
    items = make_items(20)
    metric = feed(SoftDiscriminationScore(TREE), items)
    expected = metric.compute()
    metric.update(
        torch.tensor([[math.nan, 1.0]]), torch.tensor([[False, False]]), torch.tensor([7]), ["size"], torch.tensor([0])
    )
    assert metric.compute() == expected
    assert metric.failed == 0


def test_whole_weights_count_an_item_so_often():
    once, twice = SoftDiscriminationScore(["a"]), SoftDiscriminationScore(["a"])
    scores = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    once.update(scores[[0, 0, 0, 1]], None, None, ["a"] * 4)
    twice.update(scores, None, None, ["a"] * 2, weight=torch.tensor([3, 1]))
    assert str(once.compute()) == str(twice.compute())  # sds_logprob is NaN in both


@pytest.mark.parametrize("where", ["scores", "logprobs"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_item_that_is_not_finite_is_counted_as_failed(where, bad):
    arguments = {
        "scores": torch.tensor([[1.0, 0.0], [2.0, 0.0]]),
        "logprobs": torch.tensor([[-1.0, -2.0], [-1.0, -2.0]]),
    }
    arguments[where][1, 0] = bad
    metric = SoftDiscriminationScore(["a"])
    metric.update(mask=None, target=None, ability=["a", "a"], **arguments)
    row = metric.compute()["abilities"]["a"]
    assert (row["count"], metric.failed) == (1, 1)
    assert row["sds"] == pytest.approx(softmax_at([1.0, 0.0], 0))


def test_without_items_there_is_no_number():
    report = SoftDiscriminationScore(TREE).compute()
    assert math.isnan(report["overall"]["sds"]) and report["overall"]["count"] == 0
    assert math.isnan(report["abilities"]["maths"]["sds"])


def test_an_empty_category_does_not_drag_the_ability_down():
    metric = SoftDiscriminationScore(TREE)
    metric.update(torch.tensor([[9.0, 0.0]]), None, None, ["maths"], category=["area"])
    assert metric.compute()["abilities"]["maths"]["sds"] == pytest.approx(softmax_at([9.0, 0.0], 0))


def test_one_item_has_no_standard_error():
    metric = SoftDiscriminationScore(["a"])
    metric.update(torch.tensor([[1.0, 0.0]]), None, None, ["a"])
    assert math.isnan(metric.compute()["abilities"]["a"]["se"])


def test_indices_and_names_are_the_same():
    by_name, by_index = SoftDiscriminationScore(["a", "b"]), SoftDiscriminationScore(["a", "b"])
    scores = torch.randn(4, 3)
    by_name.update(scores, None, None, ["b", "a", "b", "b"], logprobs=scores)
    by_index.update(scores, None, None, torch.tensor([1, 0, 1, 1]), logprobs=scores)
    assert torch.equal(by_name.sums, by_index.sums)


def test_survives_pickling_and_reset():
    metric = feed(SoftDiscriminationScore(TREE), make_items(40))
    copy = pickle.loads(pickle.dumps(metric))
    assert copy.compute() == metric.compute()
    copy.reset()
    assert copy.compute()["overall"]["count"] == 0


def test_a_cast_of_the_model_around_it_does_not_spoil_the_sums():
    holder = torch.nn.Module()
    holder.metric = SoftDiscriminationScore(["a"])
    holder.to(torch.bfloat16)
    for _ in range(1000):
        holder.metric.update(torch.tensor([[1.0, 0.0]]), None, None, ["a"])
    assert holder.metric.compute()["abilities"]["a"]["count"] == 1000


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"ability": ["nothing"]}, ConfigError, "Unknown ability 'nothing'"),
        ({"ability": ["maths"]}, ConfigError, "Unknown category None"),
        ({"ability": ["maths"], "category": ["set"]}, ConfigError, "'algebra', 'area'"),
        ({"ability": []}, ValueError, "one ability"),
        ({"ability": torch.tensor([9])}, ValueError, "indices from 0 to 3"),
        ({"ability": torch.tensor([0.0])}, ValueError, "integer tensor"),
        ({"ability": ["size"], "weight": torch.tensor([0.5])}, ValueError, "whole numbers"),
        ({"ability": ["size"], "weight": torch.tensor([-1])}, ValueError, "whole numbers"),
        ({"ability": ["size"], "logprobs": torch.zeros(1, 3)}, ValueError, "`logprobs`"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    metric = SoftDiscriminationScore(TREE)
    with pytest.raises(error, match=message):
        metric.update(torch.zeros(1, 2), None, None, **arguments)
    assert int(metric.sums.sum()) == 0


@pytest.mark.parametrize("tree", [{}, {"g": []}, {"g": ["a"], "h": ["a"]}, {"a": ["a"]}, ["a/b"], ["overall"], [""]])
def test_a_tree_that_cannot_be_logged_is_refused(tree):
    with pytest.raises(BenchmarkError):
        SoftDiscriminationScore(tree)


def _on_rank(rank: int, world: int, port: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    metric = SoftDiscriminationScore(TREE)
    items = make_items(41)
    # Uneven on purpose: the last rank has nothing at all.
    feed(metric, items[rank :: world - 1] if rank < world - 1 else [])
    torch.save(metric.compute(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_change_no_bit(world, tmp_path, free_port):
    mp.start_processes(_on_rank, args=(world, free_port, str(tmp_path)), nprocs=world, start_method="fork")
    alone = feed(SoftDiscriminationScore(TREE), make_items(41)).compute()
    for rank in range(world):
        assert torch.load(tmp_path / f"{rank}.pt") == alone
