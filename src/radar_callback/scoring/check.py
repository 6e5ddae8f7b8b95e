"""Whether a fast way of scoring may be trusted with a model: it is compared with the reference on real items.

What rounding alone does is measured first, on the reference itself: given a row alone instead of in a batch it should say the
same, and does so as far as the model's precision allows. Where the difference is next to nothing (float32), a way agrees if its
scores are the reference's. In half precision rounding moves single scores as much as some mistakes do, so three things are
looked at that keep the two apart: how far whole distributions are from the reference, how far from themselves with candidates
in reverse, both counted in the reference's own rounding, and what may not change by a single bit: a candidate's score when the
other candidates say something else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from radar_callback.scoring.encode import EncodedSample
from radar_callback.scoring.scorer import NotSupportedError, Scorer

TOLERANCE = 1e-4
"""Largest difference allowed without noticeable rounding, as a share of the largest mean logit or absolutely, whichever is
more. On 14 families of models the right way differs by less than 1e-5, and each mistake that was planted by more than 0.01."""

ROUNDING = 2.5
"""How many times the reference's own rounding (root mean square over whole log-softmax rows) a way may be away. On 14
families in bfloat16 the right way is at most 1.3 times away, and each mistake that was planted 3.5 times or more."""

Groups = Sequence[Sequence[EncodedSample]]


@dataclass(frozen=True)
class Verdict:
    """What a comparison with the reference found.

    Attributes:
        agrees: Whether the way may be trusted with this model.
        why: One line for the log.
        final: Whether another try could not end otherwise.
    """

    agrees: bool
    why: str
    final: bool = True


def check(way: Scorer, reference: Scorer, groups: Groups) -> Verdict:
    """Compares a way of scoring with the reference on real items.

    Args:
        way: What is to be trusted.
        reference: What it must agree with.
        groups: Items in batches that both can take.

    Returns:
        Never an error of the model's: one that takes no such mask or positions says so in an exception of its own choosing.
    """
    try:
        return _check(way, reference, groups)
    except (NotSupportedError, TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        lines = str(error).splitlines() or ["no message"]
        return Verdict(False, f"{type(error).__name__}: {lines[0]}")


def _check(way: Scorer, reference: Scorer, groups: Groups) -> Verdict:
    items = sum(map(len, groups))
    wanted = [_seen(reference, group) for group in groups]
    if not all(bool(seen.means.isfinite().all()) for seen in wanted):
        return Verdict(False, "the model's logits are not finite", final=False)
    noise = _rms(
        [_alone(reference, group) for group in groups],
        [_firsts(group, seen) for group, seen in zip(groups, wanted, strict=True)],
    )
    scale = max(1.0, *(float(seen.means.abs().max()) for seen in wanted))
    got = [_seen(way, group) for group in groups]
    if noise <= TOLERANCE * scale / 10:
        worst = float(torch.stack([(a.means - b.means).abs().max() for a, b in zip(got, wanted, strict=True)]).max())
        allowed = TOLERANCE * scale
        return Verdict(worst <= allowed, f"largest difference {worst:.1e} on {items} items (allowed {allowed:.1e})")
    turned = [_seen(way, _reversed(group), _turn_back(group)) for group in groups]
    rows, back = [seen.rows for seen in got], [seen.rows for seen in turned]
    ratios = {
        "from the reference": _rms(rows, [seen.rows for seen in wanted]) / noise,
        "in reversed order": _rms(back, rows) / noise,
    }
    foreign = max(_foreign(way, group) for group in groups)
    far = ", ".join(f"{ratio:.1f} times its rounding {what}" for what, ratio in ratios.items())
    why = (
        f"{far} (allowed {ROUNDING}); other candidates' words move a score by {foreign:.1e} (allowed 0), {items} items"
    )
    return Verdict(foreign == 0 and all(ratio <= ROUNDING for ratio in ratios.values()), why)


@dataclass(frozen=True)
class _Seen:
    """What a way made of a batch: `[M, vocabulary]` log-softmax at every scored token, and all means of existing candidates."""

    rows: Tensor
    means: Tensor


def _seen(way: Scorer, group: Sequence[EncodedSample], order: Tensor | None = None) -> _Seen:
    logits, reading = way.predict(group)
    scores, rows = reading.means(logits), reading.distributions(logits)
    means = torch.stack([scores.mean_logits, scores.mean_logprobs])[:, scores.mask]
    return _Seen(rows if order is None else rows[order.to(rows.device)], means)


def _rms(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Root mean square of the difference."""
    squares = [((x - y).double() ** 2).mean() for x, y in zip(a, b, strict=True)]
    return math.sqrt(float(torch.stack(squares).mean()))


def _alone(reference: Scorer, group: Sequence[EncodedSample]) -> Tensor:
    """Distributions of each item's first candidate, a row at a time: no padding, no neighbours."""
    return torch.cat([_seen(reference, [replace(sample, tails=sample.tails[:1])]).rows for sample in group])


def _firsts(group: Sequence[EncodedSample], seen: _Seen) -> Tensor:
    """The same rows out of those of the batch."""
    sizes = [[tail.scored for tail in sample.tails] for sample in group]
    parts = seen.rows.split([n for item in sizes for n in (item[0], sum(item[1:]))])
    return torch.cat(parts[::2])


def _reversed(group: Sequence[EncodedSample]) -> list[EncodedSample]:
    return [replace(sample, tails=sample.tails[::-1]) for sample in group]


def _turn_back(group: Sequence[EncodedSample]) -> Tensor:
    """Which of the rows of reversed candidates is which of the rows in order."""
    order, begin = [], 0
    for sample in group:
        sizes = [tail.scored for tail in sample.tails[::-1]]
        starts = [begin + sum(sizes[:i]) for i in range(len(sizes))]
        order += [torch.arange(start, start + size) for start, size in zip(starts[::-1], sizes[::-1], strict=True)]
        begin += sum(sizes)
    return torch.cat(order)


def _foreign(way: Scorer, group: Sequence[EncodedSample]) -> float:
    """By how much the scores of the first and the last candidates move when all the others say something else."""
    before, worst = way(group), 0.0
    ends: list[Callable[[int], int]] = [lambda k: 0, lambda k: k - 1]
    for end in ends:
        after = way([_others_changed(sample, end(len(sample.tails))) for sample in group])
        for row, sample in enumerate(group):
            at = end(len(sample.tails))
            worst = max(worst, abs(float(after.mean_logits[row, at] - before.mean_logits[row, at])))
    return worst


def _others_changed(sample: EncodedSample, at: int) -> EncodedSample:
    """All candidates but one replaced by words of that one, as long as they were."""
    words = sample.tails[at].ids
    tails = [
        tail if k == at else replace(tail, ids=words.repeat(-(-len(tail.ids) // len(words)))[: len(tail.ids)].flip(0))
        for k, tail in enumerate(sample.tails)
    ]
    return replace(sample, tails=tuple(tails))
