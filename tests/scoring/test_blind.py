"""The control: everything as before but for what the images show."""

import io
from dataclasses import replace

import torch
from PIL import Image

from radar_callback import Benchmark, RadarEvaluator
from radar_callback.benchmark.writer import write_shards
from radar_callback.scoring.blind import BlindEncoder
from radar_callback.scoring.encode import SampleEncoder
from tests.helpers import tiny


def test_a_blind_item_differs_in_its_pixels_only(tmp_path):
    benchmark = Benchmark(tiny.benchmark(tmp_path / "tiny", n=6))
    model, processor = tiny.llava(), tiny.llava_processor()
    encode = SampleEncoder(processor, model.config)
    for i in range(len(benchmark)):
        seen, blind = encode(benchmark.read(i)), BlindEncoder(encode)(benchmark.read(i))
        assert seen.prompt == blind.prompt and len(seen.tails) == len(blind.tails)
        assert torch.equal(seen.prefix["input_ids"], blind.prefix["input_ids"])
        for one, other in zip(seen.tails, blind.tails, strict=True):
            assert torch.equal(one.ids, other.ids)
        if seen.prompt_images:
            assert not torch.equal(seen.vision["pixel_values"], blind.vision["pixel_values"])
            assert blind.vision["pixel_values"].std(dim=(-1, -2)).max() < 1e-6, "nothing to see"


def test_gain_is_what_scoring_grey_images_oneself_gives(tmp_path):
    folder = tiny.benchmark(tmp_path / "tiny", n=40)
    grey = tmp_path / "grey"
    made = [replace(sample, images=tuple(_grey() for _ in sample.images)) for sample in tiny.samples(40)]
    write_shards(made, grey, name="grey", groups=tiny.GROUPS)
    model, processor = tiny.llava().eval(), tiny.llava_processor()
    result = RadarEvaluator(model, processor, folder, blind_share=1.0).evaluate(per_sample=True)
    blind = RadarEvaluator(model, processor, grey, blind_share=0.0).evaluate(per_sample=True)
    without = {item.key: item.sds for item in blind.items}
    for ability, row in result.image_gain.items():
        items = [item for item in result.items if ability in ("overall", item.ability)]
        if ability != "overall":
            assert row["count"] == len(items)
            assert abs(row["sds"] - sum(i.sds - without[i.key] for i in items) / len(items)) < 1e-5
    assert blind.image_gain == {} and abs(result.image_gain["overall"]["sds"]) > 1e-4
    some = RadarEvaluator(model, processor, folder, blind_share=0.25).evaluate()
    assert 0 < some.image_gain["overall"]["count"] < 20 and some.abilities == result.abilities


def _grey() -> bytes:
    with io.BytesIO() as file:
        Image.new("RGB", (tiny.SIZE, tiny.SIZE), (127, 127, 127)).save(file, "PNG")
        return file.getvalue()
