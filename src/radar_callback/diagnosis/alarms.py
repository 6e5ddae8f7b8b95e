"""What broke: abilities that fell, all at once or one by one; a model that does not look; a part that stopped learning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from radar_callback.diagnosis.detector import (
    USUAL_TOGETHER,
    falls,
    movements,
    own_restlessness,
    restlessness,
    threshold,
)
from radar_callback.diagnosis.findings import Cause, Finding, Kind
from radar_callback.diagnosis.series import Array, Record, Series, column

ERROR = 0.05
"""Bound on the probability of a false fall in a run (a fifth of it in one a fifth as long) ..."""

EVALUATIONS = 100
"""... of so many evaluations."""

LEAST = 0.05
"""A fall of less than this, in SDS, is no reason to wake anybody."""

LEAST_TOGETHER = 0.02
"""The same for the mean of all abilities that have risen."""

MOSTLY = 0.5
"""They have not if this share of what was lost is one ability's: it is then about that one, and drags others along."""

ALL = "overall"
"""The watch over that mean."""

SEVERAL, TOGETHER = 3, 0.5
"""Abilities have fallen together if several have, and their mean with them or this share of those with something to lose."""

LOST = 0.06
"""What an ability must have above chance to have something to lose: those at chance drift about it."""

UNMOVED = 0.02
"""A part that moves by less than this share of what it used to has stopped."""


def fallen(series: Mapping[str, Series], records: Sequence[Record]) -> list[Finding]:
    """Regressions and collapses, as each would have been found during the run.

    Each ability is watched, and so is the mean of all that have risen, in which many small falls add up.

    Args:
        series: All abilities.
        records: The history they come from.
    """
    if not series:
        return []
    watches = _watches(series)
    limit = threshold(len(watches), EVALUATIONS, ERROR)
    found: list[Finding] = []
    for t in range(1, len(records)):
        down = [(name, watch.top(t)) for name, watch in watches.items() if watch.evidence[t] >= limit and watch.lost(t)]
        if not down:
            continue
        found.append(_fall(series, watches, records, t, down))
        # Told once: from here on each is compared with what it has come down to.
        for name in watches if found[-1].kind is Kind.COLLAPSE else [*(name for name, _ in down), ALL]:
            watches[name].begin(t)
    return found


def _watches(series: Mapping[str, Series]) -> dict[str, _Watch]:
    values = np.array([one.sds for one in series.values()])
    above = values - np.array([one.chance for one in series.values()])
    errors = np.nan_to_num(np.array([one.moved_se for one in series.values()]))
    recent = np.fmax(above, np.roll(above, 1, axis=1))
    recent[:, 0] = above[:, 0]
    risen = recent >= LOST
    watches = {}
    for i, (name, one) in enumerate(series.items()):
        # What the others move by: an ability that falls slowly would else be taken for a restless one.
        pooled = restlessness(np.delete(values, i, axis=0), np.delete(risen, i, axis=0))
        restless = own_restlessness(one.sds, pooled)
        watches[name] = _Watch(one.sds, movements(one.sds, one.moved_se, restless), above[i], LEAST)
    moved = np.diff(values, axis=1, prepend=np.nan)
    # Those that had risen by the evaluation before; what falls now may be low by now.
    those = np.roll(risen, 1, axis=1) & np.isfinite(moved)
    those[:, 0] = False
    count = those.sum(axis=0)
    enough = np.maximum(count, 1)
    together = np.where(count >= 3, np.where(those, moved, 0.0).sum(axis=0) / enough, np.nan)
    error = np.sqrt(np.square(np.where(those, errors, 0.0)).sum(axis=0)) / enough
    level = np.cumsum(np.nan_to_num(together))
    # How restless the mean is it tells itself: abilities do not move independently of each other.
    calm = restlessness(level[None], np.ones((1, len(level)), dtype=bool), USUAL_TOGETHER)
    scores = movements(level, error, calm)
    watches[ALL] = _Watch(level, scores, np.full(len(level), np.inf), LEAST_TOGETHER)
    return watches


class _Watch:
    """The evidence for a fall of one curve, after each evaluation since its watch began.

    Args:
        values: `[T]`.
        scores: `[T]` its movements in standard deviations.
        above: `[T]` what it has to lose.
        least: A fall of less than this does not matter.
    """

    def __init__(self, values: Array, scores: Array, above: Array, least: float) -> None:
        self._values, self._above, self._least = values, above, least
        self.scores = scores
        self.begin(0)

    def begin(self, t: int) -> None:
        """Begins anew, from the value at t."""
        self._begun = t
        self.evidence = np.concatenate([np.full(t + 1, -np.inf), falls(self.scores[t + 1 :])])

    def lost(self, t: int) -> bool:
        """Whether it had something to lose, and lost enough to matter."""
        top = self.top(t)
        return bool(self._above[top] >= LOST and self._values[top] - self._values[t] >= self._least)

    def top(self, t: int) -> int:
        """Where the fall to the value at t began: of the four evaluations before it, the last that was about as high as any."""
        first = max(self._begun, t - 4)
        window, now = self._values[first:t], self._values[t]
        if not np.isfinite(window).any():
            return t
        best = np.nanmax(window)
        return first + int(np.flatnonzero(window >= best - 0.25 * max(0.0, best - now))[-1])


def _fall(
    series: Mapping[str, Series],
    watches: Mapping[str, _Watch],
    records: Sequence[Record],
    t: int,
    down: list[tuple[str, int]],
) -> Finding:
    since = Counter(at for _, at in down).most_common(1)[0][0]
    losers = [
        name for name, one in series.items() if np.nanmax(one.sds[: t + 1] - one.chance[: t + 1], initial=0) >= LOST
    ]
    falling = [name for name in losers if np.nansum(watches[name].scores[since + 1 : t + 1]) < -2]
    named = [name for name, _ in down if name != ALL]
    worst = sorted({*falling, *named} or losers, key=lambda name: series[name].sds[t] - series[name].sds[since])
    together = ALL in {name for name, _ in down} or len(falling) >= TOGETHER * len(losers)
    lost = {name: max(0.0, float(series[name].sds[since] - series[name].sds[t])) for name in losers}
    alone = max(lost.values(), default=0.0) >= MOSTLY * sum(lost.values())
    if together and len(falling) >= SEVERAL and not alone:
        drops = np.array([series[name].sds[t] - series[name].sds[since] for name in losers])
        size = float(np.nanmean(drops))
        half = 1.96 * float(np.nanstd(drops)) / len(drops) ** 0.5
        cause = Cause.OPTIMIZATION if _leapt(records, since, t) else Cause.IMAGE_NOT_USED
        return _finding(Kind.COLLAPSE, "overall", records, t, since, (size, half), cause, worst)
    name = worst[0]
    one = series[name]
    size = float(one.sds[t] - one.sds[since])
    half = 1.96 * float(np.sqrt(np.nansum(np.square(one.moved_se[since + 1 : t + 1]))))
    others = [other for other in named if other != name]
    return _finding(Kind.REGRESSION, name, records, t, since, (size, half), Cause.ABILITY_DATA, others)


def _leapt(records: Sequence[Record], since: int, t: int) -> bool:
    """Whether the weights moved much further between two evaluations than they used to."""
    parts = records[t].get("moved") or {}
    for part in parts:
        moved = column(records, "moved", part)
        usual = np.nanmedian(moved[max(0, since - 5) : since + 1]) if since else np.nan
        if np.nanmax(moved[since + 1 : t + 1], initial=0) > 2 * usual:
            return True
    return False


def stopped(records: Sequence[Record]) -> list[Finding]:
    """Parts of the model whose weights moved before and do not any more, while others do.

    Args:
        records: A history with `moved`.
    """
    found: list[Finding] = []
    parts = dict.fromkeys(part for record in records for part in record.get("moved") or {})
    moved = {part: column(records, "moved", part) for part in parts}
    told: set[str] = set()
    for t in range(2, len(records)):
        shares = {}
        for part, values in moved.items():
            earlier = values[:t][values[:t] > 0]
            if len(earlier) and np.isfinite(values[t]):
                shares[part] = float(values[t] / np.median(earlier[-5:]))
        going = [share for share in shares.values() if share > UNMOVED]
        for part, share in shares.items():
            if share <= UNMOVED and going and part not in told:
                told.add(part)
                found.append(_finding(Kind.PART_STOPPED, part, records, t, t - 1, (share, 0.0), Cause.NO_GRADIENT))
            elif share > UNMOVED:
                told.discard(part)
    return found


def blind(records: Sequence[Record], series: Mapping[str, Series], patience: int = 10) -> list[Finding]:
    """Evaluations from which on the image made no difference, after enough of them to expect one.

    A model that has learned next to nothing yet owes next to nothing to images: that is how every healthy run begins. So
    nothing is said before abilities have risen by `LEAST` on average, or images have been worth that; and what they must be
    worth is never more than half of the rise.

    Args:
        records: A history with `image_gain`.
        series: All abilities.
        patience: Evaluations after which a model that learns from images should have begun to use them.
    """
    gain, se = column(records, "image_gain", "overall", "sds"), column(records, "image_gain", "overall", "se")
    spread = np.hypot(se, JITTER_OF_GAIN)
    owed = np.fmax(_risen(series), np.fmax.accumulate(np.nan_to_num(gain - 1.96 * spread))) if len(records) else gain
    found: list[Finding] = []
    told = False
    for t in range(patience, len(records)):
        limit = min(LEAST, owed[t] / 2) if owed[t] >= LEAST else -np.inf
        high = gain[t] + 1.96 * spread[t]
        if np.isnan(high):
            continue
        if not told and high < limit and (gain[t - 1] + 1.96 * spread[t - 1] < limit):
            told = True
            size = (float(gain[t]), float(1.96 * spread[t]))
            found.append(_finding(Kind.BLIND, "overall", records, t, t - 1, size, Cause.IMAGE_NOT_USED))
        elif gain[t] - 1.96 * spread[t] > LEAST:
            told = False
    return found


def _risen(series: Mapping[str, Series]) -> Array:
    """`[T]` how far above chance the mean of all abilities has ever been, at two evaluations running."""
    above = np.array([one.sds - one.chance for one in series.values()])
    there = np.isfinite(above)
    mean = np.where(there, above, 0.0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    both = np.minimum(mean, np.roll(mean, 1))
    both[:1] = 0.0
    highest: Array = np.maximum.accumulate(both)
    return highest


JITTER_OF_GAIN = 0.005
"""What the mean gain moves by in any case."""


def _finding(
    kind: Kind,
    subject: str,
    records: Sequence[Record],
    t: int,
    since: int,
    size: tuple[float, float],
    cause: Cause,
    others: Sequence[str] = (),
) -> Finding:
    middle, half = size
    return Finding(
        kind=kind,
        subject=subject,
        step=records[t]["step"],
        since=records[since]["step"],
        size=middle,
        low=middle - half,
        high=middle + half,
        cause=cause,
        others=tuple(others),
    )
