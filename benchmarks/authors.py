"""The way of the paper's published scripts, written anew: the baseline that everything is compared with.

An item at a time; a row for each candidate with images and prompt repeated; logits of every position over the whole vocabulary;
and each token's logit fetched on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from radar_callback.scoring.encode import EncodedSample
from radar_callback.scoring.rows import token_inputs, vision_inputs


def authors_way(model: nn.Module, samples: Sequence[EncodedSample], pad_token_id: int) -> list[list[float]]:
    """Mean raw logit of every candidate of every item."""
    return [_item(model, sample, pad_token_id) for sample in samples]


def prompts_alone(model: Any, batch: Sequence[EncodedSample], pad_token_id: int) -> Tensor:
    """A plain forward of images and prompts, with one logit at the end: what no way of scoring can do without."""
    nothing = torch.empty(0, dtype=torch.long)
    inputs = {**token_inputs([(sample, nothing) for sample in batch], pad_token_id), **vision_inputs(batch)}
    logits: Tensor = model(**inputs, use_cache=False, logits_to_keep=1).logits
    return logits


def _item(model: Any, sample: EncodedSample, pad_token_id: int) -> list[float]:
    inputs: dict[str, Tensor] = {
        **token_inputs([(sample, tail.ids) for tail in sample.tails], pad_token_id),
        **vision_inputs([sample] * len(sample.tails)),
    }
    parameter = next(model.parameters())
    inputs = {n: x.to(parameter.device, parameter.dtype if x.is_floating_point() else None) for n, x in inputs.items()}
    logits = model(**inputs).logits
    means = []
    for row, tail in enumerate(sample.tails):
        values = []
        for back in range(tail.scored, 0, -1):
            token = inputs["input_ids"][row, -back].item()
            values.append(logits[row, -back - 1, token].item())
        means.append(sum(values) / len(values))
    return means
