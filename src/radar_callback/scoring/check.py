"""Whether a fast way of scoring may be trusted with a model: it is compared with the reference on real items.

What rounding alone does is measured first, on the reference itself: given a row alone instead of in a batch it should say the
same, and does so as far as the model's precision allows. Where the difference is next to nothing (float32), a way agrees if its
scores are the reference's. In half precision rounding moves single scores as much as some mistakes do, so three things are
looked at that keep the two apart: how far whole distributions are from the reference, how far from themselves with candidates
in reverse, both counted in the reference's own rounding, and what may not change by a single bit: a candidate's score when the
other candidates say something else. In any precision, the same tokens must be read for the same candidates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from radar_callback.errors import LogitsError
from radar_callback.scoring.encode import EncodedSample
from radar_callback.scoring.scorer import NotSupportedError, Scorer

TOLERANCE = 1e-4
"""Largest difference allowed without noticeable rounding, as a share of the largest mean logit or absolutely, whichever is
more. On 14 families of models the right way differs by less than 1e-5, and each mistake that was planted by more than 0.01."""

ROUNDING = 2.5
"""How many times the reference's own rounding (root mean square over whole log-softmax rows) a way may be away. On 14
families in half precision the right way is at most 1.1 times away, and each mistake that was planted 3.3 times or more."""

Groups = Sequence[Sequence[EncodedSample]]


UNSTEADY = 0.02
"""Rounding, root mean square in nats, that a float32 model cannot have: there, padding or neighbours change what it says."""

MODEL_ERRORS = (
    NotSupportedError, LogitsError, TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError,
)  # fmt: skip
"""What a model raises that does not take what it is given, or returns something else than it was asked for."""


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


@dataclass(frozen=True)
class Baseline:
    """What the reference says of a handful of items, and how steadily.

    Attributes:
        groups: The items, in batches.
        seen: What the reference made of each batch; empty if it could not be asked.
        noise: Root mean square by which its log-softmax rows move when their items stand elsewhere, in nats.
        unsteady: The same, where that is more than rounding can be; else 0.
        problem: Why nothing can be compared with it, if so.
        final: Whether another try could not end otherwise.
        refusal: If what the model's forward returns are no logits, which no other way could read either: the error.
    """

    groups: Groups
    seen: tuple[_Seen, ...] = ()
    noise: float = 0.0
    unsteady: float = 0.0
    problem: str = ""
    final: bool = True
    refusal: LogitsError | None = None


def measure(
    reference: Scorer, groups: Groups, most_tokens: float = math.inf, agree: Callable[[bool], bool] = bool
) -> Baseline:
    """Measures the reference, which every way of scoring is compared with.

    Args:
        reference: Scores candidates one a row.
        groups: Items in batches.
        most_tokens: Bound on the tokens of a forward, unless one item alone has more.
        agree: Whether a statement holds on every rank, where all make each forward: how many there are must not depend on how
            one of them rounds.

    Returns:
        Never an error of the model's own: scoring will meet it again and say it.

    Raises:
        RanksApartError: If a forward that other ranks take part in failed on this one only.
    """
    try:
        return _measure(reference, groups, most_tokens, agree)
    except LogitsError as error:
        return Baseline(groups, problem=str(error), refusal=error)
    except torch.OutOfMemoryError as error:
        problem = f"memory ran out in the comparison: {_first_line(error)}"
        return Baseline(groups, problem=problem, final=False)
    except MODEL_ERRORS as error:
        return Baseline(groups, problem=f"the reference fails: {type(error).__name__}: {_first_line(error)}")


def compare(way: Scorer, baseline: Baseline, agree: Callable[[bool], bool] = bool) -> Verdict:
    """Compares a way of scoring with the reference on real items.

    Args:
        way: What is to be trusted.
        baseline: What it must agree with.
        agree: As in :func:`measure`.

    Returns:
        Never an error of the model's: one that takes no such mask or positions says so in an exception of its own choosing.

    Raises:
        RanksApartError: If a forward that other ranks take part in failed on this one only.
    """
    if baseline.problem:
        return Verdict(False, baseline.problem, baseline.final)
    try:
        return _compare(way, baseline, agree)
    except torch.OutOfMemoryError as error:
        return Verdict(False, f"memory ran out in the comparison: {_first_line(error)}", final=False)
    except MODEL_ERRORS as error:
        return Verdict(False, f"{type(error).__name__}: {_first_line(error)}")


def check(way: Scorer, reference: Scorer, groups: Groups, most_tokens: float = math.inf) -> Verdict:
    """Measures the reference and compares a way with it; see :func:`measure` and :func:`compare`."""
    return compare(way, measure(reference, groups, most_tokens))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no message"])[0]


def _measure(reference: Scorer, groups: Groups, most_tokens: float, agree: Callable[[bool], bool]) -> Baseline:
    wanted = tuple(_joined([_seen(reference, part) for part in _parts(group, most_tokens)]) for group in groups)
    if not agree(all(bool(seen.means.isfinite().all()) for seen in wanted)):
        return Baseline(groups, problem="the model's logits are not finite", final=False)
    noise = _rms(
        [_moved(reference, group) for group in groups],
        [_firsts(group, seen) for group, seen in zip(groups, wanted, strict=True)],
    )
    exact = all(seen.precision == torch.float32 for seen in wanted)
    whole = exact and all(p.dtype == torch.float32 for p in reference.model.parameters() if p.is_floating_point())
    return Baseline(groups, wanted, noise, unsteady=noise if whole and noise > UNSTEADY else 0.0)


def _compare(way: Scorer, baseline: Baseline, agree: Callable[[bool], bool]) -> Verdict:
    groups, wanted, noise = baseline.groups, baseline.seen, baseline.noise
    items = sum(map(len, groups))
    scale = max(1.0, *(float(seen.means.abs().max()) for seen in wanted))
    got = [_seen(way, group) for group in groups]
    if not agree(all(a.same_tokens(b) for a, b in zip(got, wanted, strict=True))):
        return Verdict(False, "it reads other tokens than the reference")
    exact = all(seen.precision == torch.float32 for seen in wanted)
    if agree(exact and noise <= TOLERANCE * scale / 10):
        worst = float(torch.stack([(a.means - b.means).abs().max() for a, b in zip(got, wanted, strict=True)]).max())
        allowed = TOLERANCE * scale
        return Verdict(worst <= allowed, f"largest difference {worst:.1e} on {items} items (allowed {allowed:.1e})")
    # Rows that happen to be rounded alike say little about how much the model rounds; its logits' own precision does.
    spread = max(float(seen.rows.std(1).max()) for seen in wanted)
    noise = max(noise, spread * torch.finfo(wanted[0].precision).eps / 4)
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
    """What a way made of a batch.

    Attributes:
        rows: `[M, vocabulary]` log-softmax at every scored token.
        means: `[2, C]` of all candidates.
        read: `[3, M]` which token was read, whose it is, and which of that candidate's.
        precision: Of the logits, as the model gave them.
    """

    rows: Tensor
    means: Tensor
    read: Tensor
    precision: torch.dtype

    def same_tokens(self, other: _Seen) -> bool:
        """Whether both read the same tokens for the same candidates."""
        return self.read.shape == other.read.shape and bool((self.read == other.read).all())


def _seen(way: Scorer, group: Sequence[EncodedSample], order: Tensor | None = None) -> _Seen:
    logits, reading = way.predict(group)
    scores, rows = reading.means(logits), reading.distributions(logits)
    means = torch.stack([scores.mean_logits, scores.mean_logprobs])[:, scores.mask]
    read = torch.stack([reading.token, reading.candidate, reading.place])
    return _Seen(rows if order is None else rows[order.to(rows.device)], means, read, logits.dtype)


def _joined(parts: Sequence[_Seen]) -> _Seen:
    """What was seen in parts, as if it had been seen at once."""
    if len(parts) == 1:
        return parts[0]
    reads, candidates = [], 0
    for part in parts:
        reads.append(part.read + torch.tensor([[0], [candidates], [0]], device=part.read.device))
        candidates += part.means.shape[1]
    rows, means = torch.cat([part.rows for part in parts]), torch.cat([part.means for part in parts], 1)
    return _Seen(rows, means, torch.cat(reads, 1), parts[0].precision)


def _parts(group: Sequence[EncodedSample], most_tokens: float) -> list[list[EncodedSample]]:
    """A group in parts, in each of which all candidates' rows have at most so many tokens, if it is more than one item."""
    parts: list[list[EncodedSample]] = [[]]
    width = rows = 0
    for sample in group:
        length = sample.prefix_length + max(len(tail.ids) for tail in sample.tails)
        width, rows = max(width, length), rows + len(sample.tails)
        if parts[-1] and width * rows > most_tokens:
            parts.append([])
            width, rows = length, len(sample.tails)
        parts[-1].append(sample)
    return parts


def _rms(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Root mean square of the difference."""
    squares = [((x - y).double() ** 2).mean() for x, y in zip(a, b, strict=True)]
    return math.sqrt(float(torch.stack(squares).mean()))


def _moved(reference: Scorer, group: Sequence[EncodedSample]) -> Tensor:
    """Distributions of each item's first candidate, an item at a time, and behind some padding."""
    return torch.cat([_padded(reference, sample) for sample in group])


def _padded(reference: Scorer, sample: EncodedSample) -> Tensor:
    first = sample.tails[0]
    # A second candidate that is longer by an odd number of tokens moves the first one's row to other columns.
    longer = replace(first, ids=torch.cat([first.ids, first.ids.repeat(3)[:3]]), scored=first.scored)
    return _seen(reference, [replace(sample, tails=(first, longer))]).rows[: first.scored]


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
