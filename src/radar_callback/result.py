"""What one evaluation found: the value that history, loggers, terminal and pictures are all made from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from radar_callback.item_scores import ItemScores
from radar_callback.taxonomy import Taxonomy


class Score(TypedDict):
    """One row of a result: an ability, a group, or everything together.

    Attributes:
        sds: Soft Discrimination Score in [0, 1], mean over items (by category first where there are categories); for a
            group or overall, mean over abilities. NaN while `count` is 0.
        sds_logprob: The same from log-softmax values instead of raw logits.
        accuracy: Share of items whose correct candidate has the highest score.
        count: Items scored.
        se: Standard error of `sds`.
        chance: What guessing gives: mean of 1/K over the items.
    """

    sds: float
    sds_logprob: float
    accuracy: float
    count: int
    se: float
    chance: float


class Gain(TypedDict):
    """How much the image helps, over items scored both with it and blind.

    Attributes:
        sds: Mean of the differences of SDS, with less without.
        se: Standard error of that mean.
        count: Items.
    """

    sds: float
    se: float
    count: int


class Change(TypedDict):
    """What became of an ability's items from one evaluation to the next.

    Attributes:
        sds: Mean of the items' differences of SDS.
        se: Standard error of that mean; smaller than that of two separate means, since an item is compared with itself.
        count: Items scored both times.
        learned: Of these, how many were wrong before and are right now.
        forgotten: How many were right before and are wrong now.
    """

    sds: float
    se: float
    count: int
    learned: int
    forgotten: int


class AbilityScore(Score):
    """A `Score` that also knows its group."""

    group: str


@dataclass(frozen=True)
class ItemScore:
    """One scored item, as `score --per-sample` prints it. Index 0 of every list is the correct candidate."""

    key: str
    meta: Mapping[str, Any]
    ability: str
    category: str | None
    prompt: str
    candidates: tuple[str, ...]
    mean_logits: tuple[float, ...]
    mean_logprobs: tuple[float, ...]
    sds: float
    sds_logprob: float
    correct: bool
    target: int = 0


@dataclass(frozen=True)
class RadarResult:
    """One evaluation of one benchmark at one training step.

    Attributes:
        step: `global_step` of the training run.
        time: Unix time at the end of the evaluation, in seconds.
        seconds: Wall clock that the evaluation took.
        benchmark: Name of the benchmark.
        samples: Items the benchmark asked for, scored or not.
        failed: How many of them were not scored.
        abilities: A row for each ability.
        groups: A row for each group.
        overall: Mean over all abilities.
        failures: `{reason: items}`, adds up to `failed`.
        share: Of each ability's items, what was asked for; below 1 where evaluations would have taken too much time.
        subset: Names the items that were asked for: two evaluations with the same name asked for the same items.
        items_per_ability: Of them, those of the ability with the most.
        scorer: The way of scoring that was used.
        padding: Share of the tokens given to the model that were padding.
        waited: Seconds, of `seconds`, in which this rank's model waited for items to be read and encoded.
        memory_growth: Bytes by which this rank's peak memory rose, on the accelerator if the model is on one, else in RAM; 0
            where an evaluation needed no more than the run had before.
        fluency: Mean log-probability of the tokens of all candidates, right and wrong, in nats.
        image_gain: By ability, how much better items were scored with their images than with grey ones, on the items that
            were also scored blind; empty if none was.
        moved: By part of the model, how far its weights have turned since the evaluation before, relative to their size;
            empty at the first.
        item_scores: What every candidate of every item got.
        items: Every scored item, where asked for; empty otherwise.
        unscored: `{"key", "meta", "ability", "reason", "detail"}` of each failed item, where items were asked for.
    """

    step: int
    time: float
    seconds: float
    benchmark: str
    samples: int
    failed: int
    abilities: dict[str, AbilityScore]
    groups: dict[str, Score]
    overall: Score
    failures: dict[str, int] = field(default_factory=dict)
    share: float = 1.0
    subset: str = ""
    items_per_ability: int = 0
    scorer: str = ""
    padding: float = 0.0
    waited: float = 0.0
    memory_growth: int = 0
    fluency: float = math.nan
    image_gain: dict[str, Gain] = field(default_factory=dict)
    moved: dict[str, float] = field(default_factory=dict)
    item_scores: ItemScores | None = None
    items: tuple[ItemScore, ...] = ()
    unscored: tuple[dict[str, Any], ...] = ()

    @property
    def coverage(self) -> float:
        """Share of the items that were scored."""
        return (self.samples - self.failed) / self.samples if self.samples else 0.0

    @property
    def asymmetry(self) -> float | None:
        """How far perception is ahead of reasoning, in SDS; None unless the benchmark has both groups."""
        if {"perception", "reasoning"} <= self.groups.keys():
            return self.groups["perception"]["sds"] - self.groups["reasoning"]["sds"]
        return None

    def metrics(self, overhead: float | None = None) -> dict[str, float]:
        """The scalars to log, by key.

        Args:
            overhead: Share of the run's wall clock spent on evaluations so far, in [0, 1].

        Returns:
            `radar/sds/<ability>`, `radar/sds_logprob/<ability>`, `radar/accuracy/<ability>` and `radar/sds/<group>` of all
            that were scored, `radar/sds/overall`, `radar/asymmetry` (with both groups), `radar/image_gain` (with a
            control), `radar/fluency`, `radar/coverage`, `radar/share` (of the items that `max_overhead` allowed),
            `radar/seconds`, `radar/overhead` (if given).
        """
        return record_metrics({**self.to_record(), "overhead": overhead})

    def to_record(self) -> dict[str, Any]:
        """The line of `radar_history.jsonl`: JSON types only, NaN as null."""
        return jsonable(
            {
                "step": self.step,
                "time": self.time,
                "seconds": self.seconds,
                "benchmark": self.benchmark,
                "samples": self.samples,
                "failed": self.failed,
                "coverage": self.coverage,
                "failures": self.failures,
                "abilities": self.abilities,
                "groups": self.groups,
                "overall": self.overall,
                "share": self.share,
                "subset": self.subset,
                "items_per_ability": self.items_per_ability,
                "scorer": self.scorer,
                "padding": self.padding,
                "waited": self.waited,
                "memory_growth": self.memory_growth,
                "fluency": self.fluency,
                "image_gain": self.image_gain,
                "moved": self.moved,
            }
        )


def record_metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """Lists the scalars of an evaluation that is a line of the history, by log key; see :meth:`RadarResult.metrics`.

    Args:
        record: What :meth:`RadarResult.to_record` gave, of this release or an earlier one.
    """
    values: dict[str, float | None] = {}
    for name, row in record["abilities"].items():
        for score in ("sds", "sds_logprob", "accuracy"):
            values[f"radar/{score}/{name}"] = row.get(score)
    groups = {name: group.get("sds") for name, group in record["groups"].items()}
    values |= {f"radar/sds/{name}": sds for name, sds in groups.items()}
    values["radar/sds/overall"] = record["overall"].get("sds")
    perception, reasoning = groups.get("perception"), groups.get("reasoning")
    values["radar/asymmetry"] = perception - reasoning if perception is not None and reasoning is not None else None
    values["radar/image_gain"] = (record.get("image_gain") or {}).get("overall", {}).get("sds")
    values |= {f"radar/{key}": record.get(key) for key in ("fluency", "coverage", "share", "seconds", "overhead")}
    return {key: value for key, value in values.items() if value is not None and not math.isnan(value)}


def metric_keys(taxonomy: Taxonomy) -> list[str]:
    """Lists every log key that evaluations of a benchmark may have a value for.

    Args:
        taxonomy: The benchmark's.

    Example:
        >>> metric_keys(Taxonomy.of({"perception": ["colour"]}))[:4]
        ['radar/sds/colour', 'radar/sds_logprob/colour', 'radar/accuracy/colour', 'radar/sds/perception']
    """
    row = dict.fromkeys(("sds", "sds_logprob", "accuracy"), 0.0)
    numbers = dict.fromkeys(("fluency", "coverage", "share", "seconds", "overhead"), 0.0)
    full = {
        "abilities": dict.fromkeys(taxonomy.abilities, row),
        "groups": dict.fromkeys(taxonomy.groups, row),
        "overall": row,
        "image_gain": {"overall": row},
        **numbers,
    }
    return list(record_metrics(full))


def labelled(key: str, label: str) -> str:
    """A log key that does not collide with those of another benchmark in the same run.

    Example:
        >>> labelled("radar/sds/colour", ""), labelled("radar/sds/colour", "m3bench")
        ('radar/sds/colour', 'radar/m3bench/sds/colour')
    """
    return key.replace("radar/", f"radar/{label}/", 1) if label else key


def jsonable(value: Any) -> Any:
    """The value with NaN and infinity as None, which JSON can hold."""
    if isinstance(value, Mapping):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
