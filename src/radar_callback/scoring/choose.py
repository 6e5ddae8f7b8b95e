"""Which way of scoring a model gets: the fast one, if it has proved itself on real items."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Literal, cast

from radar_callback.benchmark.manifest import Item
from radar_callback.errors import ConfigError, LogitsError
from radar_callback.scoring.cached import CachedScorer
from radar_callback.scoring.check import Groups, compare, measure
from radar_callback.scoring.packed import PackedScorer
from radar_callback.scoring.reference import ReferenceScorer
from radar_callback.scoring.scorer import Scorer

log = logging.getLogger(__name__)

ScorerName = Literal["auto", "packed", "cached", "reference"]
FAST: tuple[type[Scorer], ...] = (PackedScorer, CachedScorer)
"""The fastest first."""
_ALL: tuple[type[Scorer], ...] = (*FAST, ReferenceScorer)
WAYS = {way.name: way for way in _ALL}


def known(name: str) -> ScorerName:
    """Takes the name of a way of scoring.

    Args:
        name: As the user gave it.

    Returns:
        The same; `"auto"` for a way that is no more, with a warning.

    Raises:
        ConfigError: If there is no such way.
    """
    if name == "shared":
        log.warning(
            "There is no scorer 'shared' any more: 'auto' is used, the fastest way that agrees with the reference. "
            "Leave scorer= out to have the same without this line."
        )
        return "auto"
    if name != "auto" and name not in WAYS:
        raise ConfigError(f"Unknown scorer {name!r}: expected 'auto', {', '.join(map(repr, WAYS))}.")
    return cast(ScorerName, name)


def choose(
    make: Callable[[type[Scorer]], Scorer],
    groups: Groups,
    all_agree: Callable[[bool], bool],
    most_tokens: float = math.inf,
    asked: ScorerName = "auto",
    agree: Callable[[bool], bool] = bool,
) -> tuple[type[Scorer], bool]:
    """Picks the fastest way of scoring that agrees with the reference.

    Args:
        make: Makes a scorer for the model at hand.
        groups: Items to compare on, in batches.
        all_agree: Whether a statement holds on every rank; the choice must be the same everywhere.
        most_tokens: Bound on the tokens of a forward of the reference.
        asked: A way by name: it alone is compared, and the reference taken where it does not agree.
        agree: `all_agree` where every rank makes each forward, so that all make as many; see
            :func:`radar_callback.scoring.check.measure`.

    Returns:
        The way, and whether that is final: not if the model was in no state to be compared (its logits are not finite).

    Raises:
        LogitsError: If what the model's forward returns are no logits, on any rank.
    """
    baseline = measure(make(ReferenceScorer), groups, most_tokens, agree)
    # One question where all is well, as it nearly always is.
    if not all_agree(baseline.refusal is None and not baseline.unsteady):
        if not all_agree(baseline.refusal is None):
            raise baseline.refusal or LogitsError(
                "What the model's forward returns on another rank are no logits: see there."
            )
        log.warning(
            "Padding and neighbours move this model's log-probabilities by %.2g nats though it is in float32, more than "
            "rounding can: scores depend on which items share a batch. Does it take its positions from columns, or "
            "ignore attention_mask?",
            baseline.unsteady,
        )
    if asked == ReferenceScorer.name:
        return ReferenceScorer, all_agree(baseline.final)
    refused, final = "", True
    for way in FAST if asked == "auto" else (WAYS[asked],):
        verdict = compare(make(way), baseline, agree)
        if all_agree(verdict.agrees):
            report = log.warning if refused else log.info
            report("Scoring with the %s way, which agrees with the reference: %s.%s", way.name, verdict.why, refused)
            return way, True
        refused += f" The {way.name} way does not agree ({verdict.why})."
        final = all_agree(verdict.final) and final
    log.warning("Scoring with the reference way, which is slower.%s", refused)
    return ReferenceScorer, final


def various(items: Sequence[Item], most: int = 8) -> list[int]:
    """Positions of a handful of items as different as the benchmark has them.

    Args:
        items: Entries of the manifest.
        most: At most this many.

    Returns:
        The longest and the shortest texts, the most and the fewest candidates, of each number of images; and at least two of
        each, if there are two: what is swapped between items of a batch shows only where there are several.
    """
    groups: dict[int, list[int]] = {}
    for position, item in enumerate(items):
        groups.setdefault(item.n_images, []).append(position)
    chosen: list[list[int]] = []
    for members in groups.values():
        text = {i: items[i].question_chars + max(items[i].candidate_chars) for i in members}
        count = {i: len(items[i].candidate_chars) for i in members}
        extremes = [pick(members, key=of.__getitem__) for of in (text, count) for pick in (max, min)]
        between = [members[len(members) // 2], members[-1], members[0]]
        different = list(dict.fromkeys(extremes))
        chosen.append(different if len(different) > 2 else list(dict.fromkeys([*different, *between]))[:3])
    chosen = chosen[:most]
    while sum(map(len, chosen)) > most:
        max(chosen, key=len).pop()
    return [position for group in chosen for position in group]
