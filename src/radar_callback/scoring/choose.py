"""Which way of scoring a model gets: the fast one, if it has proved itself on real items."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from radar_callback.benchmark.manifest import Item
from radar_callback.scoring.encode import EncodedSample
from radar_callback.scoring.packed import NotSupportedError, PackedScorer
from radar_callback.scoring.reading import CandidateScores
from radar_callback.scoring.reference import ReferenceScorer
from radar_callback.scoring.scorer import Scorer

log = logging.getLogger(__name__)

ScorerName = Literal["auto", "packed", "reference"]
WAYS: dict[str, type[Scorer]] = {way.name: way for way in (PackedScorer, ReferenceScorer)}

TOLERANCE = 1e-4
"""Largest difference allowed in float32, as a share of the largest mean logit or absolutely, whichever is more. On 12 families of
models the right way differs by less than 1e-5, and each mistake that was planted by more than 0.01."""


@dataclass(frozen=True)
class Verdict:
    """What a comparison with the reference found.

    Attributes:
        agrees: Whether the way may be trusted with this model.
        why: One line for the log.
    """

    agrees: bool
    why: str


def compare(way: Scorer, reference: Scorer, groups: Sequence[Sequence[EncodedSample]]) -> Verdict:
    """Compares a way of scoring with the reference on real items.

    Args:
        way: What is to be trusted.
        reference: What it must agree with.
        groups: Items in batches that both can take.
    """
    worst, scale, items = 0.0, 1.0, 0
    for group in groups:
        wanted = reference(group)
        try:
            got = way(group)
        except (NotSupportedError, TypeError, ValueError, RuntimeError) as error:
            # A model that takes no such mask or positions says so in one of these ways.
            return Verdict(
                False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
            )
        worst = max(worst, _largest_difference(got, wanted))
        scale = max(scale, float(wanted.mean_logits.abs().max()))
        items += len(group)
    agrees = worst <= TOLERANCE * scale  # false for NaN, too
    return Verdict(agrees, f"largest difference {worst:.1e} on {items} items (allowed {TOLERANCE * scale:.1e})")


def _largest_difference(a: CandidateScores, b: CandidateScores) -> float:
    pairs = ((a.mean_logits, b.mean_logits), (a.mean_logprobs, b.mean_logprobs))
    return max(float((x - y).abs().max()) for x, y in pairs)


def choose(
    make: Callable[[type[Scorer]], Scorer],
    dtype: torch.dtype,
    groups: Sequence[Sequence[EncodedSample]],
    all_agree: Callable[[bool], bool],
) -> type[Scorer]:
    """Picks the fastest way of scoring that agrees with the reference.

    Args:
        make: Makes a scorer for the model at hand.
        dtype: What the model computes in.
        groups: Items to compare on, in batches.
        all_agree: Whether a statement holds on every rank; the choice must be the same everywhere.
    """
    if dtype != torch.float32:
        # In half precision the largest difference does not separate mistakes from rounding.
        log.info(
            "Scoring with the reference way: the model is in %s, and the fast way is only checked in float32.", dtype
        )
        return ReferenceScorer
    verdict = compare(make(PackedScorer), make(ReferenceScorer), groups)
    if all_agree(verdict.agrees):
        log.info("Scoring with the packed way, which agrees with the reference: %s.", verdict.why)
        return PackedScorer
    log.warning(
        "Scoring with the reference way, which is slower: the packed one does not agree with it (%s).", verdict.why
    )
    return ReferenceScorer


def various(items: Sequence[Item], most: int = 8) -> list[list[int]]:
    """Positions of a handful of items as different as the benchmark has them, grouped by their number of images.

    Args:
        items: Entries of the manifest.
        most: At most this many in all.

    Returns:
        Groups of positions: the longest and the shortest texts, the most and the fewest candidates, of each number of images.
    """
    groups: dict[int, list[int]] = {}
    for position, item in enumerate(items):
        groups.setdefault(item.n_images, []).append(position)
    chosen: list[list[int]] = []
    for members in groups.values():
        text = {i: items[i].question_chars + max(items[i].candidate_chars) for i in members}
        count = {i: len(items[i].candidate_chars) for i in members}
        extremes = [pick(members, key=of.__getitem__) for of in (text, count) for pick in (max, min)]
        chosen.append(list(dict.fromkeys(extremes)))
    chosen = chosen[:most]
    while sum(map(len, chosen)) > most:
        max(chosen, key=len).pop()
    return chosen
