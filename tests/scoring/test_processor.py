"""What is handed in as a processor: used, loaded, or refused in one line that says what to pass."""

import pytest
import torch
from torch import nn
from transformers import WhisperFeatureExtractor, WhisperProcessor

from radar_callback import RadarEvaluator
from radar_callback.errors import ConfigError
from radar_callback.scoring.processor import not_a_processor, usable_processor
from tests.helpers import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.benchmark(tmp_path_factory.mktemp("bench") / "tiny", n=8)


class Pair:
    tokenizer, image_processor, image_token = tiny.tokenizer(), None, "<image>"


class Callable(Pair):
    def __call__(self):
        """Takes nothing."""


class Raw(Callable):
    tokenizer = tiny.tokenizer().backend_tokenizer


class Broken(Callable):
    @property
    def tokenizer(self):
        raise RuntimeError("not loaded yet")


class Collate:
    def __call__(self, rows):
        return rows


WRONG = {
    "None": (None, "got None"),
    "tokenizer": (tiny.tokenizer(), "got a tokenizer alone (TokenizersBackend)"),
    "image processor": (tiny.llava_processor().image_processor, "got an image processor alone (CLIPImageProcessorPil)"),
    "model": (tiny.llava(), "got a torch module (LlavaForConditionalGeneration; the model?)"),
    "class": (type(tiny.llava_processor()), "got the class LlavaProcessor and no object of it"),
    "not callable": (Pair(), "got a Pair that cannot be called"),
    "raw tokenizer": (Raw(), "got a Raw whose tokenizer, a Tokenizer, lacks __call__"),
    "broken property": (Broken(), "got a Broken without a tokenizer"),
    "collate function": (Collate(), "got a Collate without a tokenizer"),
    "dict": ({"tokenizer": tiny.tokenizer()}, "got a dict without a tokenizer"),
    "for sounds": (
        WhisperProcessor(WhisperFeatureExtractor(), tiny.tokenizer()),
        "got a WhisperProcessor without an image processor",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_processor_is_refused_in_one_line(name, folder):
    thing, said = WRONG[name]
    with pytest.raises(ConfigError) as caught:
        RadarEvaluator(tiny.llava(), thing, folder)
    message = str(caught.value)
    assert said in message and "Expected processor=… to be the model's processor for images and text" in message
    assert len(message.splitlines()) == 1


def test_a_folder_of_a_processor_is_loaded(folder, tmp_path):
    tiny.llava_processor().save_pretrained(tmp_path / "saved")
    model = tiny.llava().eval()
    results = [
        RadarEvaluator(model, given, folder, workers=0).evaluate(per_sample=True).items
        for given in (tiny.llava_processor(), tmp_path / "saved", str(tmp_path / "saved"))
    ]
    assert results[0] == results[1] == results[2] and results[0]
    with pytest.raises(ConfigError, match="Found no processor in"):
        RadarEvaluator(model, tmp_path / "nothing", folder)


def test_a_processor_of_ones_own_is_taken_as_it_is():
    own = Callable()
    assert not_a_processor(own) is None and usable_processor(own) is own


@pytest.mark.parametrize("model", [None, tiny.llava_processor(), "some/model"])
def test_a_model_that_is_none_is_refused_in_one_line(model, folder):
    with pytest.raises(
        ConfigError, match=r"Expected model to be a torch module, but got .*: pass the loaded model first"
    ):
        RadarEvaluator(model, tiny.llava(), folder)


class Own(nn.Module):
    def __init__(self, config=None):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        if config is not None:
            self.config = config

    def forward(self, batch):
        return self.layer(batch)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Own(), "image-text-to-text model with a `config`, but got a Own"),
        (Own({"lr": 1}), "forward takes input_ids and attention_mask by name, but Own's does not"),
        (torch.compile(Own({"lr": 1})), "but Own's does not"),
    ],
)
def test_a_model_of_ones_own_is_told_of_adapters(model, said, folder):
    with pytest.raises(ConfigError, match="adapter") as caught:
        RadarEvaluator(model, tiny.llava_processor(), folder)
    assert said in str(caught.value) and len(str(caught.value).splitlines()) == 1
