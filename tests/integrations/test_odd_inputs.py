"""Checkpoints of other releases, tokenizers and models that lack something, items that do not fit: a run survives or is told."""

import copy
import io
import logging
from dataclasses import replace

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from radar_callback import RadarCallback
from radar_callback.benchmark.sample import Sample
from radar_callback.benchmark.writer import write_shards
from radar_callback.errors import ConfigError
from radar_callback.integrations.discovery import find_model, find_processor
from tests.helpers import tiny
from tests.helpers.families import FAMILIES
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


def odd_benchmark(folder, *odd):
    write_shards([*tiny.samples(30, seed=4), *odd], folder, name="odd", groups=tiny.GROUPS)
    return folder


def picture(size):
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "PNG")
    return buffer.getvalue()


def test_an_option_that_spells_the_image_token_costs_that_item(tmp_path):
    one = next(sample for sample in tiny.samples(9) if len(sample.images) == 1)
    html = replace(one, key="html", question="The tag for it is", answer="<img>", distractors=("<image>", "<pad>"))
    callback = RadarCallback(odd_benchmark(tmp_path / "bench", html), every_n_steps=3)
    make_trainer(tmp_path, callback).fit(PreTraining())
    assert callback.errors == 0 and steps(callback) == [0, 3, 6]
    for record in callback.records:
        assert record["failures"] == {"not_encodable": 1} and record["coverage"] == pytest.approx(30 / 31)


class Qwen(LightningModule):
    def __init__(self):
        super().__init__()
        self.model, self.processor = FAMILIES["qwen2_vl"]()

    def training_step(self, batch, index):
        return sum(p.float().pow(2).sum() for p in self.model.parameters()) * 0 + 1.0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.zeros(32, 1), 4)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_a_processor_refuses_cost_their_items(workers, tmp_path):
    """Qwen-VL's takes none that is 200 times as long as wide, and says so to whoever asks what such an image costs as well."""
    one = next(sample for sample in tiny.samples(9) if len(sample.images) == 1)
    # As many as are compared at first, with the longest texts, so that none of those that are chosen is left.
    odd = [
        replace(one, key=f"odd{i}", question="The circle is " * 9, images=(picture(size),))
        for i, size in enumerate([(1, 300), (4000, 3), (2, 401), (1001, 5)] * 2)
    ]
    callback = RadarCallback(odd_benchmark(tmp_path / "bench", *odd), every_n_steps=4, workers=workers)
    make_trainer(tmp_path, callback, max_steps=4).fit(Qwen())
    assert callback.errors == 0 and steps(callback) == [0, 4]
    for record in callback.records:
        assert record["failures"] == {"not_encodable": 8} and record["scorer"] == "packed"
        assert sum(row["count"] for row in record["abilities"].values()) == 30


class Fast(PreTraining):
    """Batches are made by the fast tokenizer's Rust part, which was told once how to truncate and pad."""

    def __init__(self, workers=0):
        super().__init__(workers)
        self.processor.tokenizer = copy.deepcopy(self.processor.tokenizer)
        self.rust = self.processor.tokenizer.backend_tokenizer
        self.rust.enable_truncation(24)
        self.rust.enable_padding(length=24)

    def train_dataloader(self):
        words = "<image>" * 16 + "The circle is red on the left side, not the right."
        texts = [words + " green" * (i % 5) for i in range(32)]

        def collate(rows):
            encoded = self.rust.encode_batch(rows)
            return {
                "input_ids": torch.tensor([one.ids for one in encoded]),
                "attention_mask": torch.tensor([one.attention_mask for one in encoded]),
                "pixel_values": torch.ones(len(rows), 3, tiny.SIZE, tiny.SIZE),
            }

        return torch.utils.data.DataLoader(texts, 4, collate_fn=collate, num_workers=self.workers)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_tokenizers_truncation_and_padding_stay_for_training(workers, folder, tmp_path):
    alone, watched = Fast(workers), Fast(workers)
    make_trainer(tmp_path / "a").fit(alone)
    callback = RadarCallback(folder, every_n_steps=2, workers=workers)
    make_trainer(tmp_path / "b", callback).fit(watched)
    assert watched.losses == alone.losses and len(alone.losses) == 6 and len(callback.records) == 4
    assert watched.rust.truncation["max_length"] == watched.rust.padding["length"] == 24
    usual = RadarCallback(folder, every_n_steps=2)
    make_trainer(tmp_path / "c", usual, max_steps=1).fit(PreTraining())
    assert callback.records[0]["abilities"] == usual.records[0]["abilities"]


class Raising(LightningDataModule):
    @property
    def processor(self):
        raise RuntimeError("call setup first")

    def train_dataloader(self):
        return torch.utils.data.DataLoader(Captions(), 4)


class AtFault(Raising):
    @property
    def processor(self):
        raise AttributeError("no attribute 'tokenizer'")


@pytest.mark.parametrize("datamodule", [Raising, AtFault])
def test_a_datamodules_property_that_raises_matters_only_where_it_is_needed(datamodule, folder, tmp_path):
    module = PreTraining()
    processor, module.processor = module.processor, None
    given = RadarCallback(folder, every_n_steps=3, processor=processor)
    make_trainer(tmp_path / "a", given).fit(module, datamodule=datamodule())
    assert given.errors == 0 and len(given.records) == 3
    with pytest.raises(ConfigError, match=f"{datamodule.__name__}.processor raised .*Error: .*processor=") as caught:
        make_trainer(tmp_path / "b", RadarCallback(folder)).fit(module, datamodule=datamodule())
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "thing",
    [tiny.llava_processor().image_processor, tiny.tokenizer(), lambda rows: rows],
    ids=["images", "text", "own"],
)
def test_a_processor_is_looked_for_on_where_one_is_something_else(thing, folder, tmp_path, caplog, monkeypatch):
    class Holder(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.vlm = model

    module = PreTraining()
    processor, module.processor = module.processor, thing
    usual = RadarCallback(folder, every_n_steps=3)
    module.model, model = None, module.model
    module.holder = Holder(model)
    # Nowhere:
    with pytest.raises(
        ConfigError, match=r"Found no processor \(PreTraining.processor is .*pass RadarCallback\(processor="
    ) as caught:
        make_trainer(tmp_path / "a", usual).fit(module)
    assert len(str(caught.value).splitlines()) == 1
    trainer = make_trainer(tmp_path / "b")
    # Beside the model; with the datamodule; where the model came from:
    module.holder.processor = processor
    assert find_processor(trainer, module, model) is processor
    assert "Using Holder.processor as the model's processor, since PreTraining.processor is " in caplog.text
    del module.holder.processor
    processor.save_pretrained(tmp_path / "saved")
    model.name_or_path = str(tmp_path / "saved")
    assert type(find_processor(trainer, module, model)) is type(processor)
    trainer.datamodule = Raising()
    assert type(find_processor(trainer, module, model)) is type(processor)
    monkeypatch.setattr(Raising, "processor", processor)
    assert find_processor(trainer, module, model) is processor
    # What was said by hand is not replaced by anything:
    with pytest.raises(ConfigError, match=r"Expected RadarCallback\(processor=…\) to be the model's processor"):
        find_processor(trainer, module, model, thing)


class IsTheModel(LightningModule):
    """Tower, projector and text model as attributes; nobody outside can call it as a model of transformers."""

    def __init__(self, config=None):
        super().__init__()
        self.tower, self.projector = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        self.text = LlamaForCausalLM(
            LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
        )
        self.config = config

    def forward(self, batch):
        return self.text(batch["input_ids"] % 64).logits

    def training_step(self, batch, index):
        return self(batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(Captions(), 4)


@pytest.mark.parametrize("config", [None, {"lr": 0.1}])
@pytest.mark.parametrize("named", [False, True])
def test_a_module_that_is_the_model_is_told_of_adapters(named, config, folder, tmp_path):
    module = IsTheModel(config)
    options = {"model": module, "processor": tiny.llava_processor()} if named else {}
    with pytest.raises(ConfigError, match="adapter") as caught:
        make_trainer(tmp_path, RadarCallback(folder, **options)).fit(module)
    assert "forward(input_ids, attention_mask, …)" in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_the_module_around_the_model_may_be_named_for_it(folder, tmp_path):
    module = PreTraining()
    assert find_model(module, module) is module.model
    with pytest.raises(
        ConfigError, match="got a LlavaProcessor: pass the model as model=… and its processor as processor=…"
    ):
        make_trainer(tmp_path, RadarCallback(folder, model=module.processor, processor=module.model)).fit(module)
