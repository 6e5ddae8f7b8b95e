"""The reference way to score: every candidate a row of its own, teacher-forced behind the whole prompt, in one forward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from radar_callback.scoring.encode import EncodedSample
from radar_callback.scoring.reading import Reading, kept
from radar_callback.scoring.rows import token_inputs, vision_inputs
from radar_callback.scoring.scorer import Scorer


class ReferenceScorer(Scorer):
    """Asks nothing of a model but a forward; slow, since images and prompt are computed for every candidate anew."""

    name = "reference"
    together = False

    def predict(self, samples: Sequence[EncodedSample]) -> tuple[Tensor, Reading]:
        """See :meth:`Scorer.predict`."""
        inputs, keep, reading = collate(samples, self.pad_token_id)
        logits, _ = self._forward(inputs, keep, largest=int(reading.token.max()))
        return logits, reading.to(self._device)


def collate(samples: Sequence[EncodedSample], pad_token_id: int) -> tuple[dict[str, Tensor], Tensor, Reading]:
    """Rows padded on the left, so that candidates end in the last column.

    The last token of a candidate is fed too, though nothing is read behind it: the columns then line up with the ids, and
    models that count image tokens against ids see a complete text.

    Args:
        samples: At least one item.
        pad_token_id: Any id that is no image token.

    Returns:
        Inputs by name; `[rows, length]` where logits are needed; which is read for which token.

    Raises:
        ValueError: If these items cannot share a batch.
    """
    rows = [(sample, tail) for sample in samples for tail in sample.tails]
    inputs = {
        **token_inputs([(sample, tail.ids) for sample, tail in rows], pad_token_id),
        # Repeated for each candidate: what one row needs is in that row.
        **vision_inputs([sample for sample, _ in rows]),
    }
    length = inputs["input_ids"].shape[1]
    # The token in column c is predicted in column c - 1; the last one stands in the last column.
    places = [(row + 1) * length - 1 - tail.scored + torch.arange(tail.scored) for row, (_, tail) in enumerate(rows)]
    keep, index = kept(places, len(rows), length)
    tokens = [tail.content for _, tail in rows]
    return inputs, keep, Reading.of(index, tokens, counts=tuple(len(sample.tails) for sample in samples))
