"""Where in a model's output each scored token is predicted, and the means over a candidate's tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class CandidateScores:
    """One number a candidate, twice.

    Attributes:
        mean_logits: `[N, K]` float64: mean raw logit of the candidate's tokens (equation 3).
        mean_logprobs: `[N, K]` float64: mean of their log-softmax values, in nats.
        mask: `[N, K]` boolean: true where a candidate exists.
    """

    mean_logits: Tensor
    mean_logprobs: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Reading:
    """Which logits predict which scored token; M tokens in all.

    Attributes:
        keep: How many last columns of logits are needed.
        row: `[M]` row of the output.
        column: `[M]` column within the kept ones.
        token: `[M]` id of the scored token.
        candidate: `[M]` whose token it is, candidates counted over all items in order.
        place: `[M]` which of that candidate's scored tokens it is.
        counts: Candidates of each item.
    """

    keep: int
    row: Tensor
    column: Tensor
    token: Tensor
    candidate: Tensor
    place: Tensor
    counts: tuple[int, ...]

    @classmethod
    def of(cls, keep: int, entries: list[tuple[int, list[int], Tensor]], counts: tuple[int, ...]) -> Reading:
        """Builds a reading from one `(row, columns, tokens)` for each candidate."""
        lengths = torch.tensor([len(columns) for _, columns, _ in entries])
        return cls(
            keep=keep,
            row=torch.tensor([row for row, _, _ in entries]).repeat_interleave(lengths),
            column=torch.tensor([column for _, columns, _ in entries for column in columns]),
            token=torch.cat([tokens for _, _, tokens in entries]),
            candidate=torch.arange(len(entries)).repeat_interleave(lengths),
            place=torch.cat([torch.arange(n) for n in lengths.tolist()]),
            counts=counts,
        )

    def to(self, device: torch.device) -> Reading:
        """The same on another device."""
        tensors: dict[str, Any] = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{name: value.to(device, non_blocking=True) for name, value in tensors.items()})

    def means(self, logits: Tensor) -> CandidateScores:
        """Means over each candidate's tokens.

        Args:
            logits: `[rows, columns, vocabulary]`; the last `keep` columns are read, so a family that ignores
                `logits_to_keep` and returns all of them gives the same.
        """
        at_tokens = logits[:, -self.keep :][self.row, self.column].float()
        raw = at_tokens.gather(1, self.token[:, None]).squeeze(1)
        # A logit that is not finite anywhere in the vocabulary spoils the normaliser: such an item has failed.
        values = torch.stack([raw, raw - at_tokens.logsumexp(1)]).double()
        # Summed along a padded dimension, not scattered: additions in a fixed order give the same bits on every device.
        candidates, longest = sum(self.counts), int(self.place.max()) + 1
        grid = torch.zeros(2, candidates, longest, dtype=torch.float64, device=logits.device)
        grid[:, self.candidate, self.place] = values
        lengths = torch.bincount(self.candidate, minlength=candidates)
        counts = torch.tensor(self.counts, device=logits.device)
        mask = torch.arange(max(self.counts), device=logits.device) < counts[:, None]
        means = torch.zeros(2, *mask.shape, dtype=torch.float64, device=logits.device)
        means[:, mask] = grid.sum(2) / lengths
        return CandidateScores(means[0], means[1], mask)


def to_model(inputs: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Model inputs on the model's device; pixels in the model's dtype."""
    return {
        name: value.to(device, dtype if value.is_floating_point() else None, non_blocking=True)
        for name, value in inputs.items()
    }
