"""What an item will cost is asked of the processor, and what fits of the memory; estimates that are wrong are not used."""

from dataclasses import replace

import pytest
import torch

from radar_callback import Benchmark, RadarEvaluator
from radar_callback.benchmark.writer import write_shards
from radar_callback.ranks import Replica
from radar_callback.scoring import cost, setup
from radar_callback.scoring.cost import MOST_TOKENS, characters_a_token, image_tokens, token_budget
from radar_callback.scoring.plan import row_lengths
from tests.helpers import tiny
from tests.helpers.families import FAMILIES
from tests.scoring.test_families import ITEMS, encoder, taken


def entries(tmp_path, samples):
    write_shards(samples, tmp_path, name="families", groups=tiny.GROUPS)
    found = {item.key: item for item in Benchmark(tmp_path).items}
    return [found[sample.key] for sample in samples]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_estimate_is_near_the_truth(name, tmp_path):
    samples = taken(name)
    items = entries(tmp_path, samples)
    seen = [(item, encoder(name)(sample)) for item, sample in zip(items, samples, strict=True)]
    told = image_tokens(FAMILIES[name]()[1], seen)
    guessed = row_lengths(items, told, characters_a_token(seen), together=True)
    for (_, encoded), guess in zip(seen, guessed, strict=True):
        real = encoded.prefix_length + sum(len(tail.ids) for tail in encoded.tails)
        assert guess == pytest.approx(real, rel=0.6, abs=25), encoded.prompt
    of_images = [sum(told(*size) for size in item.image_sizes) for item in items]
    assert sum(of_images) == pytest.approx(sum(encoded.vision_tokens for _, encoded in seen), rel=0.15)


def test_pictures_of_other_sizes_cost_what_they_cost(tmp_path):
    """In Qwen2-VL a larger picture is more tokens; a mean over all would fill batches with padding."""
    (item,) = entries(tmp_path, [ITEMS[0]])
    told = image_tokens(FAMILIES["qwen2_vl"]()[1], [(item, encoder("qwen2_vl")(ITEMS[0]))])
    assert told(40, 40) > 2 * told(16, 16)


def test_a_processor_that_is_wrong_is_not_believed(tmp_path):
    (item,) = entries(tmp_path, [ITEMS[0]])
    encoded = encoder("llava")(ITEMS[0])

    class Boasting:
        def _get_num_multimodal_tokens(self, image_sizes):
            return {"num_image_tokens": [10_000]}

    for processor in (Boasting(), object()):
        assert image_tokens(processor, [(item, encoded)])(40, 40) == encoded.vision_tokens == 16


@pytest.mark.parametrize("answer", [float("nan"), float("inf"), -3, None, ValueError("aspect ratio")])
def test_a_size_that_the_processor_refuses_costs_the_mean(answer, tmp_path):
    (item,) = entries(tmp_path, [ITEMS[0]])
    encoded = encoder("llava")(ITEMS[0])

    class Picky:
        def _get_num_multimodal_tokens(self, image_sizes):
            ((height, width),) = image_sizes
            if height <= 200 * width:
                return {"num_image_tokens": [15 if width < 100 else 900]}
            if isinstance(answer, Exception):
                raise answer
            return {"num_image_tokens": [answer]}

    told = image_tokens(Picky(), [(item, encoded)])
    assert (told(40, 40), told(1, 300), told(100, 100)) == (15, encoded.vision_tokens, 900)


def test_a_budget_is_a_power_of_two_within_bounds():
    assert token_budget(1e12, 1e3) == MOST_TOKENS
    assert token_budget(8e9, 1e6) == 4096 == token_budget(7e9, 1e6)
    assert token_budget(0, 1e6) == 64


class OnAnAccelerator:
    """One rank, as on a GPU whose memory somebody else fills."""

    device = torch.device("cuda")
    rank, size, replica = 0, 1, Replica(0, 1, True)

    def __init__(self, *_):
        pass

    def sum(self, values):
        return values

    def from_first(self, value):
        return value

    least = from_first

    def all_agree(self, statement):
        return statement


@pytest.mark.parametrize("asked", ["auto", "packed"])
def test_batches_shrink_when_memory_does_and_never_grow(asked, tmp_path, monkeypatch, caplog):
    folder = tiny.benchmark(tmp_path / "tiny", n=40)
    evaluator = RadarEvaluator(tiny.llava().eval(), tiny.llava_processor(), folder, scorer=asked)
    settled, free = evaluator._setup, 4e9

    def measured(run, device):
        assert run() > 0
        return 1e6

    monkeypatch.setattr(setup, "bytes_a_token", measured)
    monkeypatch.setattr(setup, "free_memory", lambda device: free)
    make = lambda way: way(evaluator.model, 0)  # noqa: E731

    def largest():
        with torch.no_grad():
            ready = settled.ready(evaluator.model, make, OnAnAccelerator())
        assert sorted(i for batch in ready.batches for i in batch) == list(range(40))
        return max(map(len, ready.batches))

    plenty = largest()
    free = 0.5e9
    short = largest()
    assert short < plenty and "batches now hold 256 tokens, not 2048" in caplog.text
    free = 4e9
    assert largest() == short


def test_what_cannot_be_encoded_is_replaced_among_the_items_to_compare_on(tmp_path):
    one = next(sample for sample in tiny.samples(9) if len(sample.images) == 1)
    # The longest texts and the most candidates, so that they are the first to be chosen.
    odd = [
        replace(one, key=f"odd{i}", question="<pad> " * 50, answer="0", distractors=tuple("123456789"))
        for i in range(9)
    ]
    write_shards([*tiny.samples(20), *odd], tmp_path / "b", name="b", groups=tiny.GROUPS)
    evaluator = RadarEvaluator(tiny.llava().eval(), tiny.llava_processor(), tmp_path / "b", workers=0)
    compared = evaluator._setup._compared()
    assert any(sample is None for sample in compared.values())
    everywhere = [sample is not None for sample in compared.values()]
    seen = evaluator._setup._seen(compared, everywhere, OnAnAccelerator())
    assert not any(item.key.startswith("odd") for item, _ in seen)
    assert len(odd[0].images) == 1 and sum(item.n_images == 1 for item, _ in seen) >= 2


def test_what_a_forward_takes_is_its_peak_over_its_tokens(monkeypatch):
    peak = {"now": 1_000}
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1_000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak["now"])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (700, 5_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 1_300)

    def run():
        peak["now"] = 9_000
        return 100

    assert cost.bytes_a_token(run, torch.device("cuda")) == 80
    assert cost.free_memory(torch.device("cuda")) == 1_000


def test_longer_tokens_make_longer_rows(tmp_path):
    (item,) = entries(tmp_path, [ITEMS[0]])
    short, long = (row_lengths([item], lambda w, h: 10, n, together=False)[0] for n in (8.0, 2.0))
    assert long - 10 == pytest.approx(4 * (short - 10))
    apart = replace(item, candidate_chars=(5, 50))
    assert row_lengths([apart], lambda w, h: 0, 1.0, together=True)[0] == item.question_chars + 55
