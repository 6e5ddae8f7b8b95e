"""Forwards that several ranks make together before the first batch: none may go on alone after a failure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from radar_callback.errors import ConfigError, RadarError, RanksApartError
from radar_callback.ranks import Ranks, apart, exchanges
from radar_callback.scoring.encode import EncodedSample
from radar_callback.scoring.reference import ReferenceScorer
from radar_callback.scoring.scorer import NotSupportedError, Scorer

Make = Callable[[type[Scorer]], Scorer]

MOVED = 0.05
"""Share of their own spread by which logits move where ranks compute parts of one result from different items, at the least:
rounding moves them far less, a sum of two models' halves far more."""


def in_step(make: Make, ranks: Ranks, collective: bool) -> Make:
    """Scorers whose failures on one rank leave no other waiting.

    A forward may fail on all ranks alike, since the model does not take what it is given: then another way of scoring can be
    tried. One that fails on this rank only, while the others are in the same forward, has to end the run.

    Args:
        make: Makes a scorer.
        ranks: Who takes part.
        collective: Whether a forward needs every rank.

    Returns:
        Makes scorers that raise `RanksApartError` for a failure that not all ranks have. Where ranks work apart, everything a
        model may raise becomes an error that says another way of scoring may do.
    """
    if ranks.size == 1:
        return make

    def made(way: type[Scorer]) -> Scorer:
        scorer = make(way)
        predict = scorer.predict

        def guarded(samples: Sequence[EncodedSample]) -> Any:
            begun = exchanges()
            try:
                return predict(samples)
            except Exception as error:
                if collective or exchanges() > begun:
                    place = f"{way.name} {scorer.calls} {exchanges() - begun} {type(error).__name__}"
                    if not ranks.failed_alike(place):
                        raise apart(ranks, error) from error
                if isinstance(error, RadarError | torch.OutOfMemoryError):
                    raise
                raise NotSupportedError(f"{type(error).__name__}: {error}") from error

        scorer.predict = guarded  # type: ignore[method-assign]
        return scorer

    return made


def exchanges_in_forward(make: Make, samples: Sequence[EncodedSample], ranks: Ranks) -> bool:
    """Whether a forward of a model of plain weights exchanges something between ranks, which only trying tells.

    Args:
        make: Makes a scorer.
        samples: Items of every kind; the same on all ranks, which score each alone.
        ranks: Who takes part; all must call this together.
    """
    scorer = in_step(make, ranks, collective=False)(ReferenceScorer)
    begun = exchanges()
    for sample in samples:
        try:
            scorer.predict([sample])
        except RanksApartError:
            raise
        except (RadarError, torch.OutOfMemoryError):  # scoring will meet it again, and say it
            continue
    return not ranks.all_agree(exchanges() == begun)


def check_independent(make: Make, sample: EncodedSample, ranks: Ranks) -> None:
    """Makes sure that what this rank's items get does not depend on what other ranks are given.

    Ranks that compute parts of one result (tensor or sequence parallelism written by hand) must be given the same items. So one
    item is scored on all ranks, then again while half of them have it with another word: for each bit of a rank's number
    those with a 1 there, so that any two ranks differ once.

    Args:
        make: Makes a scorer.
        sample: An item that all ranks have.
        ranks: Who takes part; all must call this together.

    Raises:
        ConfigError: On all ranks, if it does.
    """
    scorer = in_step(make, ranks, collective=True)(ReferenceScorer)
    one = replace(sample, tails=sample.tails[:1])
    other = replace(one, prefix={**one.prefix, "input_ids": _another_word(one)})
    alone = _first_logits(scorer, one)
    independent = True
    for bit in range((ranks.size - 1).bit_length()):
        altered = bool(ranks.rank >> bit & 1)
        again = _first_logits(scorer, other if altered else one)
        independent &= altered or _distance(again, alone) <= MOVED
    if not ranks.all_agree(independent):
        raise ConfigError(
            "Expected the model's logits on one rank not to depend on what other ranks are given, but they do: these ranks hold "
            "one model together (tensor or sequence parallelism). Pass replica=Replica(index, count, speaks), so that ranks of "
            "one replica are given the same items."
        )


def _another_word(sample: EncodedSample) -> Tensor:
    """The prefix with another last token, which is never an image's: a candidate follows it."""
    ids = sample.prefix["input_ids"].clone()
    ids[0, -1] = next((int(i) for i in sample.tails[0].ids if i != ids[0, -1]), int(ids[0, -1]) - 1)
    return ids


def _first_logits(scorer: Scorer, sample: EncodedSample) -> Tensor:
    logits, _ = scorer.predict([sample])
    return logits.float()


def _distance(a: Tensor, b: Tensor) -> float:
    """Root mean square of the difference, as a share of how much the logits of a place differ among themselves."""
    spread = float((b - b.mean(1, keepdim=True)).square().mean().sqrt())
    return float((a - b).square().mean().sqrt()) / max(spread, 1e-12)
