"""Made-up evaluations: what a run of any shape would have found."""

import math
from collections.abc import Callable, Sequence

from radar_callback.result import AbilityScore, RadarResult, Score

PERCEPTION = ("colour", "shape", "size", "count", "text", "position", "texture", "image_quality", "material")
REASONING = (
    "spatial_relation",
    "comparison",
    "arithmetic",
    "chart_reading",
    "sequence",
    "symmetry",
    "odd_one_out",
    "physical_stability",
    "counting_difference",
)
TREE = {"perception": PERCEPTION, "reasoning": REASONING}


def grown(name: str, step: int) -> float:
    """Perception rises early, reasoning late or never."""
    if name in PERCEPTION:
        return 0.5 + 0.48 / (1 + math.exp(-(step - 200 - 150 * PERCEPTION.index(name)) / 100))
    return 0.5 + (0.2 / (1 + math.exp(-(step - 1200) / 150)) if name == "spatial_relation" else 0.0)


def evaluation(
    step: int,
    tree: dict[str, Sequence[str]] | None = None,
    sds: Callable[[str, int], float] = grown,
    chance: Callable[[str], float] = lambda name: 0.5,
    benchmark: str = "radar-mini",
    count: int = 128,
    failures: dict[str, int] | None = None,
) -> RadarResult:
    tree = tree or TREE
    failures = failures or {}

    def row(values: list[float], chances: list[float], items: int) -> Score:
        scored = [value for value in values if not math.isnan(value)]
        mean = math.fsum(scored) / len(scored) if scored else math.nan
        return Score(
            sds=mean,
            sds_logprob=mean * 0.99,
            accuracy=min(1.0, mean * 1.02),
            count=items if scored else 0,
            se=math.sqrt(mean * (1 - mean) / items) if scored else math.nan,
            chance=math.fsum(chances) / len(chances),
        )

    abilities = {
        name: AbilityScore(**row([sds(name, step)], [chance(name)], count), group=group)
        for group, names in tree.items()
        for name in names
    }

    def mean(names: Sequence[str]) -> Score:
        return row([abilities[n]["sds"] for n in names], [abilities[n]["chance"] for n in names], count * len(names))

    failed = sum(failures.values())
    return RadarResult(
        step=step,
        time=1e9 + step,
        seconds=4.2,
        benchmark=benchmark,
        samples=count * len(abilities) + failed,
        failed=failed,
        abilities=abilities,
        groups={group: mean(names) for group, names in tree.items()},
        overall=mean(list(abilities)),
        failures=failures,
    )


def history(steps: Sequence[int], **of: object) -> list[dict]:
    return [evaluation(step, **of).to_record() for step in steps]
