"""The reference way with every image seen once: features are made for the items and handed in once for each candidate.

For models that honour neither masks nor kept keys and values. The features come from the model's own `get_image_features`, which
is a part of it and not its top-level forward, so this is for models that nothing shards.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from radar_callback.scoring.encode import EncodedSample
from radar_callback.scoring.reading import Reading, to_model
from radar_callback.scoring.reference import collate
from radar_callback.scoring.rows import vision_inputs
from radar_callback.scoring.scorer import NotSupportedError, Scorer, needs_every_rank, unwrapped

PIXELS = "pixel_values"


class SharedVisionScorer(Scorer):
    """Sees each image once; prompts are computed for every candidate anew.

    Raises:
        NotSupportedError: From the first batch on, if the model takes no features, or its weights lie on several ranks.
    """

    name = "shared"
    together = False

    def predict(self, samples: Sequence[EncodedSample]) -> tuple[Tensor, Reading]:
        """See :meth:`Scorer.predict`."""
        inner = unwrapped(self.model)
        if not self._accepts("mm_encoder_outputs") or not hasattr(inner, "get_image_features"):
            raise NotSupportedError(f"{type(inner).__name__}.forward takes no features of images")
        if needs_every_rank(self.model):
            raise NotSupportedError(
                "parts of the model lie on other ranks, so only its top-level forward may be called"
            )
        inputs, keep, reading = collate(samples, self.pad_token_id)
        if PIXELS not in inputs:
            logits, _ = self._forward(inputs, keep)
            return logits, reading.to(self._device)
        # An item at a time: how many entries an image has in a batch of features differs among families.
        features = [self._features(inner, sample) for sample in samples if sample.vision]
        counts = [len(sample.tails) for sample in samples if sample.vision]
        repeated = _joined([one for one, count in zip(features, counts, strict=True) for _ in range(count)])
        wanted = {name: value for name, value in inputs.items() if name not in self._pixel_inputs(inner)}
        logits, _ = self._forward(wanted, keep, mm_encoder_outputs={"image": repeated})
        return logits, reading.to(self._device)

    def _features(self, inner: Any, sample: EncodedSample) -> Any:
        takes = inspect.signature(inner.get_image_features).parameters
        vision = {name: value for name, value in vision_inputs([sample]).items() if name in takes}
        with self._forward_context():
            return inner.get_image_features(**to_model(vision, self._device, self._dtype), return_dict=True)

    @staticmethod
    def _pixel_inputs(inner: Any) -> set[str]:
        """What the features were made from, except for what positions are made from, too."""
        return set(inspect.signature(inner.get_image_features).parameters) - {"image_grid_thw"}


def _joined(values: Sequence[Any]) -> Any:
    """Outputs of several items as one: tensors and lists of images in a row, fields and lists of layers entry by entry."""
    first = values[0]
    if isinstance(first, Mapping):
        return type(first)(**{name: _joined([value[name] for value in values]) for name in first})
    if isinstance(first, Tensor):
        return torch.cat(list(values))
    if isinstance(first, tuple | list):
        if all(isinstance(entry, Tensor) for entry in first):
            return type(first)(entry for value in values for entry in value)
        return type(first)(_joined(entries) for entries in zip(*values, strict=True))
    return first
