"""What broke: abilities that fell, all at once or one by one; a model that does not look; a part that stopped learning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from radar_callback.diagnosis.detector import falls, movements, noise, threshold
from radar_callback.diagnosis.findings import Cause, Finding, Kind
from radar_callback.diagnosis.series import Array, Record, Series, column

ERROR = 0.05
"""Bound on the probability of a false fall in a run (a fifth of it in one a fifth as long) ..."""

EVALUATIONS = 100
"""... of so many evaluations."""

LEAST = 0.05
"""A fall of less than this, in SDS, is no reason to wake anybody."""

TOGETHER = 0.5
"""Abilities have fallen together if it is this share of those that had something to lose."""

LOST = 0.1
"""What an ability must have above chance to have something to lose: those at chance drift about it."""

UNMOVED = 0.02
"""A part that moves by less than this share of what it used to has stopped."""


def fallen(series: Mapping[str, Series], records: Sequence[Record]) -> list[Finding]:
    """Regressions and collapses, as each would have been found during the run.

    Args:
        series: All abilities.
        records: The history they come from.
    """
    limit = threshold(max(1, len(series)), EVALUATIONS, ERROR)
    moved = {name: movements(one.sds, one.moved_se) for name, one in series.items()}
    scale = noise(np.array(list(moved.values()))) if moved else np.array([])
    watches = {name: _Watch(series[name], scores / scale) for name, scores in moved.items()}
    found: list[Finding] = []
    for t in range(1, len(records)):
        down = [(name, watch.top(t)) for name, watch in watches.items() if watch.evidence[t] >= limit and watch.lost(t)]
        if not down:
            continue
        found.append(_fall(series, watches, records, t, down))
        # Told once: from here on each is compared with what it has come down to.
        for name in watches if found[-1].kind is Kind.COLLAPSE else [name for name, _ in down]:
            watches[name].begin(t)
    return found


class _Watch:
    """The evidence for a fall of one ability, after each evaluation since its watch began."""

    def __init__(self, one: Series, scores: Array) -> None:
        self._one = one
        self.scores = scores
        self.begin(0)

    def begin(self, t: int) -> None:
        """Begins anew, from the value at t."""
        self._begun = t
        self.evidence = np.concatenate([np.full(t + 1, -np.inf), falls(self.scores[t + 1 :])])

    def lost(self, t: int) -> bool:
        """Whether it had something above chance to lose, and lost enough to matter."""
        top = self.top(t)
        had = self._one.sds[top] - self._one.chance[top]
        return bool(had >= LOST and self._one.sds[top] - self._one.sds[t] >= LEAST)

    def top(self, t: int) -> int:
        """Where the fall to the value at t began: of the four evaluations before it, the last that was about as high as any."""
        first = max(self._begun, t - 4)
        window, now = self._one.sds[first:t], self._one.sds[t]
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
    worst = sorted(
        {*falling, *(name for name, _ in down)}, key=lambda name: series[name].sds[t] - series[name].sds[since]
    )
    if len(falling) >= 3 and len(falling) >= TOGETHER * len(losers):
        drops = np.array([series[name].sds[t] - series[name].sds[since] for name in losers])
        size = float(np.nanmean(drops))
        half = 1.96 * float(np.nanstd(drops)) / len(drops) ** 0.5
        cause = Cause.OPTIMIZATION if _leapt(records, since, t) else Cause.IMAGE_NOT_USED
        return _finding(Kind.COLLAPSE, "overall", records, t, since, (size, half), cause, worst)
    name = worst[0]
    one = series[name]
    size = float(one.sds[t] - one.sds[since])
    half = 1.96 * float(np.sqrt(np.nansum(np.square(one.moved_se[since + 1 : t + 1]))))
    others = [other for other, _ in down if other != name]
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


def blind(records: Sequence[Record], patience: int = 10) -> list[Finding]:
    """Evaluations from which on the image made no difference, after enough of them to expect one.

    Args:
        records: A history with `image_gain`.
        patience: Evaluations after which a model that learns from images should have begun to use them.
    """
    gain, se = column(records, "image_gain", "overall", "sds"), column(records, "image_gain", "overall", "se")
    spread = np.hypot(se, JITTER_OF_GAIN)
    found: list[Finding] = []
    told = False
    for t in range(patience, len(records)):
        high = gain[t] + 1.96 * spread[t]
        if np.isnan(high):
            continue
        if not told and high < LEAST and (gain[t - 1] + 1.96 * spread[t - 1] < LEAST):
            told = True
            size = (float(gain[t]), float(1.96 * spread[t]))
            found.append(_finding(Kind.BLIND, "overall", records, t, t - 1, size, Cause.IMAGE_NOT_USED))
        elif gain[t] - 1.96 * spread[t] > LEAST:
            told = False
    return found


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
