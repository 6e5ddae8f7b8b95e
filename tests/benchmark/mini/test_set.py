"""radar-mini as a whole: complete, the same everywhere and every time, small, without repetition."""

import hashlib
import json
from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path

import pytest

from radar_callback import Benchmark
from radar_callback.benchmark.mini import ABILITIES, TREE, generate
from radar_callback.benchmark.mini.items import item
from radar_callback.benchmark.mini.sheet import contact_sheet
from radar_callback.benchmark.sample import decode_image
from radar_callback.benchmark.verify import verify
from radar_callback.taxonomy import Taxonomy


def digest(samples) -> str:
    total = hashlib.sha256()
    for s in samples:
        total.update(repr((s.key, s.question, s.candidates, s.ability, dict(s.meta))).encode())
        total.update(s.images[0])
    return total.hexdigest()


def test_it_has_enough_of_everything(mini):
    counts = Counter(sample.ability for sample in mini)
    taxonomy = Taxonomy.of(TREE)
    assert taxonomy.groups == ("perception", "reasoning")
    assert tuple(counts) == taxonomy.abilities
    assert len(counts) >= 16
    assert min(counts.values()) >= 128
    assert len({sample.key for sample in mini}) == len(mini)


def test_the_number_of_candidates_belongs_to_the_ability(mini):
    for ability in ABILITIES:
        assert {len(sample.candidates) for sample in mini if sample.ability == ability.name} == {ability.k}
        assert 2 <= ability.k <= 4
        assert 128 % ability.k == 0


def test_it_is_the_same_every_time():
    assert digest(generate(items_per_ability=8)) == digest(generate(items_per_ability=8))


def test_another_seed_is_another_benchmark():
    assert digest(generate(0, 4)) != digest(generate(1, 4))


@pytest.mark.parametrize("ability", ABILITIES, ids=lambda ability: ability.name)
def test_an_item_drawn_alone_is_the_item_of_the_whole(ability, mini):
    samples = [sample for sample in mini if sample.ability == ability.name]
    for index in (0, 57, 127):
        assert item(ability, 0, index) == samples[index]


def test_a_smaller_set_is_the_beginning_of_a_larger_one(mini):
    assert list(islice(generate(items_per_ability=4), 4)) == mini[:4]


def test_no_two_items_of_a_question_share_a_picture(mini):
    pictures = defaultdict(list)
    for sample in mini:
        pictures[sample.ability, sample.question].append(sample.images[0])
    for key, images in pictures.items():
        assert len(set(images)) == len(images), key


def test_shards_would_stay_small(mini):
    def member(size: int) -> int:
        return 512 + -(-size // 512) * 512

    total = 0
    for s in mini:
        fields = [s.question, s.answer, s.distractors, s.ability, s.images and s.image_names, s.source, dict(s.meta)]
        total += member(len(json.dumps(fields)) + 110) + member(len(s.images[0]))
    assert total < 9 * 2**20


def test_pictures_are_what_a_vision_tower_reads(mini):
    for sample in mini[::37]:
        assert decode_image(sample.images[0], sample.key).size == (224, 224)
        assert sample.images[0].startswith(b"\x89PNG")


def test_the_contact_sheet_has_a_row_for_each_ability(mini):
    one_row = contact_sheet(mini[:3], per_row=3)
    two_rows = contact_sheet([*mini[:3], *mini[128:131]], per_row=3)
    assert one_row.width == two_rows.width
    assert two_rows.height > 1.8 * one_row.height


def test_what_is_shipped_is_what_the_generator_draws_and_small(mini):
    benchmark = Benchmark("radar-mini")
    folder = Path(__file__).parents[3] / "benchmark_shards" / "radar-mini"
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 12e6
    assert list(verify(str(folder))) == []
    drawn = {sample.key: sample for sample in mini}
    assert {item.key for item in benchmark.items} == drawn.keys()
    for entry in benchmark.items[:: len(benchmark) // 200]:
        shipped, made = benchmark.read(entry.index), drawn[entry.key]
        assert (shipped.question, shipped.candidates, shipped.meta) == (made.question, made.candidates, made.meta)
        # Pixels, not bytes: another release of zlib packs the same picture otherwise.
        one, other = (decode_image(s.images[0], s.key) for s in (shipped, made))
        assert one.tobytes() == other.tobytes(), entry.key
