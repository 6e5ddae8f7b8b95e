"""How the score is computed: the Soft Discrimination Score of one item, from one number a candidate.

Source: Nie, Lin et al., "RADAR: Revealing Asymmetric Development of Abilities in MLLM Pre-training", arXiv 2602.12892,
equations 3 (mean raw logit of a candidate's tokens) and 4 (softmax over the candidates).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["candidate_probabilities", "discrimination_success", "soft_discrimination_score"]


def soft_discrimination_score(scores: Tensor, mask: Tensor | None = None, target: Tensor | None = None) -> Tensor:
    """Probability that a softmax over an item's candidates puts on the correct one.

    With `s_k` the mean raw logit of candidate k's tokens (for `sds`) or their mean log-probability (for `sds_logprob`), the
    score of an item with the correct candidate `c` is `exp(s_c) / Σ_k exp(s_k)`.

    Args:
        scores: `[N, K]`, floating point, in nats: one number a candidate.
        mask: `[N, K]`, boolean, true where a candidate exists (items may have different numbers of candidates). What
            stands in `scores` where it is false has no influence. All true if left out.
        target: `[N]`, integer: index of the correct candidate. 0 if left out.

    Returns:
        `[N]`: a score in [0, 1] for each item, computed in float64 and returned in the dtype of `scores` or float32,
        whichever is wider. NaN for an item with a NaN or infinite score among its candidates: such an item has failed, and
        no number should stand for it.

    Raises:
        ValueError: If `scores` is not `[N, K]`.
        ValueError: If `scores` is not floating point.
        ValueError: If `mask` is not boolean or has another shape than `scores`.
        ValueError: If `target` is not an integer tensor `[N]`.
        ValueError: If an item's `target` is no candidate of it.

    Example:
        >>> import torch
        >>> scores = torch.tensor([[2.0, 0.0, 0.0], [1.0, 1.0, 9.0]])
        >>> mask = torch.tensor([[True, True, True], [True, True, False]])
        >>> soft_discrimination_score(scores, mask)
        tensor([0.7870, 0.5000])
        >>> soft_discrimination_score(scores, mask, target=torch.tensor([1, 1]))
        tensor([0.1065, 0.5000])
    """
    mask = _checked_mask(scores, mask)
    target = _checked_target(mask, target)
    picked = candidate_probabilities(scores, mask).gather(1, target[:, None]).squeeze(1)
    return picked.to(torch.promote_types(scores.dtype, torch.float32))


def candidate_probabilities(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax over each item's candidates (equation 4 for every candidate, not only the correct one).

    Args:
        scores: `[N, K]`, as in :func:`soft_discrimination_score`.
        mask: `[N, K]`, boolean, true where a candidate exists.

    Returns:
        `[N, K]` float64: 0 where there is no candidate; a whole row of NaN where a candidate's score is not finite.

    Raises:
        ValueError: As :func:`soft_discrimination_score`.

    Example:
        >>> import torch
        >>> candidate_probabilities(torch.tensor([[0.0, 0.0]]))
        tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    mask = _checked_mask(scores, mask)
    wide = scores.double().masked_fill(~mask, -torch.inf)
    failed = (mask & ~scores.isfinite()).any(1, keepdim=True)
    return wide.softmax(1).masked_fill(failed, torch.nan)


def discrimination_success(scores: Tensor, mask: Tensor | None = None, target: Tensor | None = None) -> Tensor:
    """The hard twin of the score: whether no candidate has a higher score than the correct one.

    A tie counts as success, as in the published scripts.

    Args:
        scores: `[N, K]`, as in :func:`soft_discrimination_score`.
        mask: `[N, K]`, boolean, true where a candidate exists.
        target: `[N]`, index of the correct candidate.

    Returns:
        `[N]` boolean; false for an item with a NaN or infinite score.

    Raises:
        ValueError: As :func:`soft_discrimination_score`.

    Example:
        >>> import torch
        >>> discrimination_success(torch.tensor([[0.2, 0.1], [0.1, 0.2]]))
        tensor([ True, False])
    """
    mask = _checked_mask(scores, mask)
    target = _checked_target(mask, target)
    finite = (scores.isfinite() | ~mask).all(1)
    best = scores.masked_fill(~mask, -torch.inf).amax(1)
    return finite & (scores.gather(1, target[:, None]).squeeze(1) >= best)


def _checked_mask(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Checks scores and mask against one another; the mask filled in where left out."""
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise ValueError(f"Expected `scores` of shape [N, K] with K > 0, but got {list(scores.shape)}.")
    if not scores.is_floating_point():
        raise ValueError(f"Expected `scores` to be floating point, but got {scores.dtype}.")
    if mask is None:
        return torch.ones_like(scores, dtype=torch.bool)
    if mask.dtype != torch.bool or mask.shape != scores.shape:
        raise ValueError(
            f"Expected `mask` to be boolean of shape {list(scores.shape)} like `scores`, but got {mask.dtype} "
            f"{list(mask.shape)}."
        )
    return mask


def _checked_target(mask: Tensor, target: Tensor | None) -> Tensor:
    """Checks that each target is a candidate of its item; 0 for all where left out."""
    n, k = mask.shape
    if target is None:
        target = torch.zeros(n, dtype=torch.long, device=mask.device)
    elif target.shape != (n,) or target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise ValueError(
            f"Expected `target` to be an integer tensor [{n}], but got {target.dtype} {list(target.shape)}."
        )
    target = target.long()
    inside = (target >= 0) & (target < k)
    inside &= mask.gather(1, target.clamp(0, k - 1)[:, None]).squeeze(1)
    if not bool(inside.all()):
        row = int((~inside).nonzero()[0, 0])
        raise ValueError(
            f"Expected `target` to point at a candidate that exists, but row {row} has target {int(target[row])} and "
            f"candidates {mask[row].nonzero().flatten().tolist()}."
        )
    return target
