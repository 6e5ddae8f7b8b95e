"""Checkpoints of other releases, tokenizers and models that lack something, items that do not fit: a run survives or is told."""

import copy
import io
import logging
from dataclasses import replace

import pytest
import torch
from lightning.pytorch import LightningModule
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from radar_callback import RadarCallback
from radar_callback.benchmark.sample import Sample
from radar_callback.benchmark.writer import write_shards
from radar_callback.errors import ConfigError
from tests.helpers import tiny
from tests.helpers.training import Captions, PreTraining
from tests.integrations.test_lightning import make_trainer, steps


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.benchmark(tmp_path_factory.mktemp("bench") / "tiny", n=12)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, folder):
    root = tmp_path_factory.mktemp("first")
    trainer = make_trainer(root, RadarCallback(folder, every_n_steps=2), max_steps=4)
    trainer.fit(PreTraining())
    trainer.save_checkpoint(root / "at4.ckpt")
    return root / "at4.ckpt"


def older(state):
    """As before item scores, controls and findings were kept."""
    new = (
        "change",
        "findings",
        "image_gain",
        "moved",
        "fluency",
        "memory_growth",
        "waited",
        "padding",
        "scorer",
        "share",
    )
    state["history"] = [{k: v for k, v in record.items() if k not in new} for record in state["history"]]
    del state["version"]


def newer(state):
    state["version"] = 99
    state["surprise"] = {"x": 1}
    state["history"][1] = {"step": "two", "of": "another shape"}


def broken(state):
    state["history"], state["errors"] = "gone", None


@pytest.mark.parametrize(
    ("alter", "kept", "said"),
    [(older, [0, 2, 4], ""), (newer, [0, 4], "version 99"), (broken, [], "cannot be read")],
)
def test_a_checkpoint_of_another_release(alter, kept, said, checkpoint, folder, tmp_path, caplog):
    saved = torch.load(checkpoint, weights_only=True)
    (key,) = [key for key in saved["callbacks"] if "RadarCallback" in key]
    alter(saved["callbacks"][key])
    torch.save(saved, tmp_path / "altered.ckpt")
    callback = RadarCallback(folder, every_n_steps=2)
    with caplog.at_level(logging.WARNING):
        make_trainer(tmp_path, callback, max_steps=8).fit(PreTraining(), ckpt_path=tmp_path / "altered.ckpt")
    assert steps(callback) == sorted({*kept, 4, 6, 8}) and callback.errors == 0
    assert said in caplog.text


def test_a_tokenizer_without_a_pad_token(folder, tmp_path):
    class Padless(PreTraining):
        def __init__(self):
            super().__init__()
            self.processor = tiny.llava_processor()
            self.processor.tokenizer = copy.deepcopy(self.processor.tokenizer)  # that of the data goes on padding
            self.processor.tokenizer.pad_token = None

    without, usual = (RadarCallback(folder, every_n_steps=3) for _ in range(2))
    make_trainer(tmp_path / "a", usual).fit(PreTraining())
    make_trainer(tmp_path / "b", without).fit(Padless())
    assert without.errors == 0 and len(without.records) == 3
    for one, other in zip(usual.records, without.records, strict=True):
        assert one["abilities"] == other["abilities"]


def test_a_model_that_takes_no_images_is_refused_before_the_first_step(folder, tmp_path):
    class TextOnly(LightningModule):
        def __init__(self):
            super().__init__()
            self.model = LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
                )
            )
            self.processor = tiny.llava_processor()
            self.trained = 0

        def training_step(self, batch, index):
            self.trained += 1
            return self.model(batch["input_ids"] % 64).logits.mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def train_dataloader(self):
            return torch.utils.data.DataLoader(Captions(), 4)

    module = TextOnly()
    with pytest.raises(ConfigError, match="image-text-to-text model") as caught:
        make_trainer(tmp_path, RadarCallback(folder)).fit(module)
    assert module.trained == 0 and len(str(caught.value).splitlines()) == 1


def test_items_that_do_not_fit_are_counted_and_not_cut(tmp_path):
    samples = tiny.samples(9, seed=4)
    one = next(sample for sample in samples if sample.images)
    long = replace(one, key="long", question="word " * 400)
    buffer = io.BytesIO()
    Image.new("RGB", (24, 24), "red").save(buffer, "PNG")
    # 13 images of 16 tokens fit into a context of 256, as the shards were built by hand and not from M3-Bench.
    many = Sample(
        key="many", question="What is it?", answer="red", distractors=("blue",), ability="colour",
        images=(buffer.getvalue(),) * 13, image_names=tuple(f"{i}.png" for i in range(13)),
    )  # fmt: skip
    folder = tmp_path / "bench"
    write_shards([*samples, long, many], folder, name="odd", groups=tiny.GROUPS)
    callback = RadarCallback(folder, every_n_steps=3)
    make_trainer(tmp_path, callback).fit(PreTraining())
    assert callback.errors == 0
    for record in callback.records:
        assert record["failures"] == {"too_long": 1} and record["samples"] == 11
        assert sum(row["count"] for row in record["abilities"].values()) == 10, (
            "thirteen images are scored where they fit"
        )
