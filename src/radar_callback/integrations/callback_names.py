"""Names for several callbacks in one run: each its own, and the same whatever their order in the Trainer's list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence


def unique_names(bases: Sequence[str], options: Sequence[Mapping[str, str]]) -> list[str]:
    """Tells callbacks of one name apart by the options in which they differ, and by number where they differ in none.

    Args:
        bases: The name of each.
        options: What each was given, as text, under the same keys for all.

    Example:
        >>> unique_names(["mini", "mini", "m3"], [{"model": "student"}, {"model": "teacher"}, {"model": "student"}])
        ['mini-student', 'mini-teacher', 'm3']
    """
    names = []
    for base, own in zip(bases, options, strict=True):
        alike = [other for name, other in zip(bases, options, strict=True) if name == base]
        names.append("-".join([base, *(own[key] for key in own if len({other[key] for other in alike}) > 1)]))
    taken: Counter[str] = Counter()
    for place, name in enumerate(names):
        taken[name] += 1
        if taken[name] > 1:
            names[place] = f"{name}-{taken[name]}"
    return names
