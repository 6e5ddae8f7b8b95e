"""What a forward returns is looked at before it is read: what is no logits ends the evaluation with one line."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from radar_callback.errors import LogitsError
from radar_callback.scoring.outputs import OutputWidths, read_logits


def read(output, rows=2, length=5, places=None, last=None):
    return read_logits(output, "Model", rows, length, places, last)


WRONG = {
    "bare tensor": (torch.zeros(2, 5, 7), {}, r"got a bare Tensor \[2, 5, 7\]"),
    "tuple": ((torch.zeros(2, 5, 7),), {}, "got a tuple of 1"),
    "nothing": (None, {}, "got None"),
    "other fields": ({"loss": 1}, {}, "got a dict with loss"),
    "integers": (SimpleNamespace(logits=torch.zeros(2, 5, 7, dtype=torch.long)), {}, "floating-point logits"),
    "longer": (SimpleNamespace(logits=torch.zeros(2, 9, 7)), {}, "for 5 places, got 9: does the model put images in"),
    "shorter": (SimpleNamespace(logits=torch.zeros(2, 4, 7)), {}, "for 5 places, got 4: .* or cut rows"),
    "neither all nor the last": (SimpleNamespace(logits=torch.zeros(2, 4, 7)), {"last": 3}, "or the last 3, got 4"),
    "last place only": (SimpleNamespace(logits=torch.zeros(2, 7)), {}, "does it return the last place only"),
    "other places": (SimpleNamespace(logits=torch.zeros(3, 7)), {"places": 4}, "the 4 places asked for, but got 3"),
    "other rows": (SimpleNamespace(logits=torch.zeros(5, 5, 7)), {}, "is the batch not its first dimension"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_logits_is_refused_in_one_line(kind):
    output, asked, said = WRONG[kind]
    with pytest.raises(LogitsError, match=said) as caught:
        read(output, **asked)
    assert "\n" not in str(caught.value)


def test_what_was_asked_for_is_taken_from_attributes_and_keys():
    logits = torch.randn(2, 5, 7)
    assert read(SimpleNamespace(logits=logits)) is logits
    assert read({"logits": logits}) is logits
    assert read({"logits": logits[:, -3:]}, last=3).shape == (2, 3, 7)
    assert read({"logits": logits}, last=3) is logits
    assert read({"logits": logits[0, :4]}, places=4).shape == (4, 7)


def test_widths_of_hidden_states_are_told_from_vocabularies():
    model = nn.ModuleDict({"embed": nn.Embedding(300, 512), "lm_head": nn.Linear(512, 300)})
    widths = OutputWidths.of(model, words=290)
    assert "fewer than the tokenizer's 290 words" in widths.complaint(32, 10)
    assert "the width of its hidden states" in widths.complaint(512, 10)
    assert widths.complaint(300, 299) is None
    assert widths.complaint(384, 10) is None, "a padded vocabulary is wider than the tokenizer's"
    assert "fewer than the tokenizer's 301 words" in widths.complaint(300, 300), "a token beyond the output is read"
    square = nn.ModuleDict({"embed": nn.Embedding(64, 64), "lm_head": nn.Linear(64, 64)})
    assert OutputWidths.of(square, words=60).complaint(64, 10) is None
