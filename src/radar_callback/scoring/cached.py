"""Scoring from kept keys and values: a forward for the prompts, and another for all candidates behind them.

For models that cannot be asked what a token may see: layers with a state instead of attention, attention kernels without masks,
code of somebody's own. Their cache is repeated for each candidate, so this takes more memory than the packed way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from radar_callback.scoring.encode import EncodedSample
from radar_callback.scoring.reading import Reading, kept
from radar_callback.scoring.rows import following_inputs, token_inputs, vision_inputs
from radar_callback.scoring.scorer import NotSupportedError, Scorer, unwrapped
from radar_callback.scoring.tree import Tree, positions

CACHE = ("cache", "past_key_values")
"""What transformers calls it: the second name is the one before 5.24."""


class CachedScorer(Scorer):
    """Sees each image and each prompt once, keeps its keys and values, and continues them with every candidate.

    Both forwards are always made, even if every candidate is a single token that the first one already predicts: ranks of a
    sharded model must call it equally often.

    Raises:
        NotSupportedError: From the first batch on, if the model keeps no cache or none that can be repeated.
    """

    name = "cached"
    together = False

    def predict(self, samples: Sequence[EncodedSample]) -> tuple[Tensor, Reading]:
        """See :meth:`Scorer.predict`."""
        inner = unwrapped(self.model)
        name = next((name for name in CACHE if name in self._parameters), None)
        if name is None or not self._accepts("position_ids"):
            raise NotSupportedError(f"{type(inner).__name__}.forward takes no cache or no position_ids by name")
        tails = [tail for sample in samples for tail in sample.tails]
        largest = max(int(tail.content.max()) for tail in tails)
        nothing = torch.empty(0, dtype=torch.long)
        prompts = token_inputs([(sample, nothing) for sample in samples], self.pad_token_id)
        inputs = {**prompts, **vision_inputs(samples)}
        inputs["position_ids"], following = positions(inner, inputs, Tree.of_prefixes(prompts["attention_mask"]))
        last = torch.zeros(prompts["input_ids"].shape, dtype=torch.bool)
        last[:, -1] = True
        first, output = self._forward(inputs, last, largest=largest, use_cache=True)

        owner = torch.arange(len(samples)).repeat_interleave(torch.tensor([len(s.tails) for s in samples]))
        fed = [tail.ids[:-1] for tail in tails]
        length = max(1, *map(len, fed))
        behind = following_inputs(samples, fed, length, self.pad_token_id)
        behind["attention_mask"] = torch.cat([prompts["attention_mask"][owner], behind["attention_mask"]], 1)
        places = following[owner, None] + torch.arange(length)
        axes = inputs["position_ids"].shape[:-2]
        behind["position_ids"] = places.expand(*axes, *places.shape)
        # The first token of a candidate is predicted by its prompt; the others by the token before them.
        skipped = [len(tail.ids) - tail.scored for tail in tails]
        at = [
            torch.arange(max(0, skip - 1), len(tail.ids) - 1) + row * length
            for row, (tail, skip) in enumerate(zip(tails, skipped, strict=True))
        ]
        keep, further = kept(at, len(tails), length)
        further = further.split([len(part) for part in at])
        rest, _ = self._forward(behind, keep, largest=largest, **{name: _repeated(output, owner.to(self._device))})
        index = torch.cat(
            [
                torch.cat([owner[row : row + 1], len(samples) + part] if skip == 0 else [len(samples) + part])
                for row, (part, skip) in enumerate(zip(further, skipped, strict=True))
            ]
        )
        reading = Reading.of(index, [tail.content for tail in tails], tuple(len(s.tails) for s in samples))
        return torch.cat([first, rest]), reading.to(self._device)


def _repeated(output: Any, owner: Tensor) -> Any:
    """The cache of a forward, with a row for each candidate in place of one for each item."""
    cache = next((cache for name in CACHE if (cache := getattr(output, name, None)) is not None), None)
    if cache is None or not hasattr(cache, "reorder_cache"):
        raise NotSupportedError("the model returns no cache that can be repeated")
    cache.reorder_cache(owner)
    return cache
