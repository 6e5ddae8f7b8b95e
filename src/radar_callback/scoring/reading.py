"""Which predictions of a model belong to which scored token, and the means over a candidate's tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def kept(places: Sequence[Tensor], rows: int, length: int) -> tuple[Tensor, Tensor]:
    """The places of a model's output at which something is predicted, each once.

    Args:
        places: For each candidate `[T]`, in which place of the flattened `[rows, length]` output each of its scored tokens
            is predicted. Candidates in one row share the place of their first token.
        rows: Rows of the output.
        length: Columns of the output.

    Returns:
        `[rows, length]` boolean, true at such a place; and for each token of all candidates, in order, which of the true
        places it is, counted along the rows.

    Example:
        >>> keep, index = kept([torch.tensor([1, 2]), torch.tensor([1])], rows=1, length=4)
        >>> keep.tolist(), index.tolist()
        ([[False, True, True, False]], [0, 1, 0])
    """
    wanted, index = torch.unique(torch.cat(list(places)), return_inverse=True)
    keep = torch.zeros(rows * length, dtype=torch.bool)
    keep[wanted] = True
    return keep.view(rows, length), index


@dataclass(frozen=True)
class Reading:
    """Which of N predictions is read for which scored token; M tokens in all.

    Attributes:
        index: `[M]` the prediction, counted among the N.
        token: `[M]` id of the scored token.
        candidate: `[M]` whose token it is, candidates counted over all items in order.
        place: `[M]` which of that candidate's scored tokens it is.
        counts: Candidates of each item.
    """

    index: Tensor
    token: Tensor
    candidate: Tensor
    place: Tensor
    counts: tuple[int, ...]

    @classmethod
    def of(cls, index: Tensor, tokens: Sequence[Tensor], counts: tuple[int, ...]) -> Reading:
        """Builds a reading from the scored tokens of every candidate, of all items in order, and where each is predicted."""
        lengths = torch.tensor([len(ids) for ids in tokens])
        return cls(
            index=index,
            token=torch.cat(list(tokens)),
            candidate=torch.arange(len(tokens)).repeat_interleave(lengths),
            place=torch.cat([torch.arange(n) for n in lengths.tolist()]),
            counts=counts,
        )

    def to(self, device: torch.device) -> Reading:
        """The same on another device."""
        tensors: dict[str, Any] = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{name: value.to(device, non_blocking=True) for name, value in tensors.items()})

    def distributions(self, logits: Tensor) -> Tensor:
        """`[M, vocabulary]` float32 log-softmax at every scored token, of `[N, vocabulary]` logits."""
        return logits.float().log_softmax(1)[self.index]

    def means(self, logits: Tensor) -> CandidateScores:
        """Means over each candidate's tokens.

        Args:
            logits: `[N, vocabulary]`.
        """
        logits = logits.float()
        raw = logits[self.index, self.token]
        # A logit that is not finite anywhere in the vocabulary spoils the normaliser: such an item has failed.
        values = torch.stack([raw, raw - logits.logsumexp(1)[self.index]]).double()
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
