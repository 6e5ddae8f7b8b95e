"""The tree that a benchmark's scores are reported in: groups -> abilities -> categories.

A *cell* is a leaf of the tree: one (ability, category) pair, or an ability alone where it has no categories. Scores are
summed per cell, so that an ability's score can be the mean over its categories first (macro average, as in the paper).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from radar_callback.errors import BenchmarkError, ConfigError
from radar_callback.quoting import quoted

RESERVED = frozenset({"overall"})
"""Names that the log keys `radar/sds/<name>` already use for something else."""


def name_problem(name: object, kind: str) -> str | None:
    """Why a name cannot be that of a group or ability, as one sentence; None if it can.

    Example:
        >>> name_problem("colour", "ability") is None
        True
    """
    if not isinstance(name, str) or not name.strip() or "/" in name or name in RESERVED:
        article = "an" if kind == "ability" else "a"
        return (
            f"Expected the name of {article} {kind} to be text without a slash and not 'overall', but got {quoted(name)}: "
            "it becomes part of the log key radar/sds/<name>; rename it."
        )
    return None


@dataclass(frozen=True)
class Taxonomy:
    """Groups, the abilities of each, and the categories of each ability.

    Args:
        tree: `{group: {ability: [category, …]}}`; an empty list means that the ability has no categories.

    Raises:
        BenchmarkError: If there is no ability, if an ability stands in two groups, or if a name is empty, holds a slash,
            or is used for a group and an ability, since all of them share the log keys `radar/sds/<name>`.

    Example:
        >>> t = Taxonomy({"perception": {"colour": []}, "reasoning": {"maths": ["algebra", "area"]}})
        >>> t.abilities
        ('colour', 'maths')
        >>> t.group_of("maths")
        'reasoning'
        >>> t.cells
        (('colour', None), ('maths', 'algebra'), ('maths', 'area'))
    """

    tree: Mapping[str, Mapping[str, Sequence[str]]]

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for group, abilities in self.tree.items():
            for name, kind in [(group, "group"), *((a, "ability") for a in abilities)]:
                problem = name_problem(name, kind)
                if problem is not None:
                    raise BenchmarkError(problem)
                if name in seen:
                    raise BenchmarkError(
                        f"Expected every group and ability to have a name of its own, but {quoted(name)} is used for a "
                        f"{seen[name]} and a {kind}: rename one of them."
                    )
                seen[name] = kind
        if not self.abilities:
            raise BenchmarkError("Expected at least one ability in the tree of groups, but got none.")

    @classmethod
    def of(
        cls,
        abilities: Taxonomy | Mapping[str, Mapping[str, Sequence[str]]] | Mapping[str, Sequence[str]] | Sequence[str],
    ) -> Taxonomy:
        """Reads the forms people type.

        Args:
            abilities: A `Taxonomy`, `{group: {ability: [category]}}`, `{group: [ability]}`, or a plain list of abilities
                (put into one group called `all`).

        Example:
            >>> Taxonomy.of(["colour", "count"]).tree
            {'all': {'colour': [], 'count': []}}
        """
        if isinstance(abilities, Taxonomy):
            return abilities
        if isinstance(abilities, Mapping):
            return cls(
                {g: dict(a) if isinstance(a, Mapping) else {name: [] for name in a} for g, a in abilities.items()}
            )
        return cls({"all": {name: [] for name in abilities}})

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[str, str, str | None]]) -> Taxonomy:
        """Collects the tree from `(group, ability, category)` rows, in order of first appearance.

        Raises:
            BenchmarkError: If an ability comes with two groups, or sometimes with and sometimes without a category.
        """
        rows_so_far = TaxonomyRows()
        for group, ability, category in rows:
            rows_so_far.add(group, ability, category)
        return cls(rows_so_far.tree)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups, in order."""
        return tuple(self.tree)

    @cached_property
    def abilities(self) -> tuple[str, ...]:
        """Names of all abilities, group by group."""
        return tuple(name for abilities in self.tree.values() for name in abilities)

    @cached_property
    def cells(self) -> tuple[tuple[str, str | None], ...]:
        """All leaves: `(ability, category)`, or `(ability, None)` for an ability without categories."""
        return tuple(
            (ability, category)
            for abilities in self.tree.values()
            for ability, categories in abilities.items()
            for category in (categories or (None,))
        )

    @cached_property
    def _group_of(self) -> dict[str, str]:
        return {ability: group for group, abilities in self.tree.items() for ability in abilities}

    @cached_property
    def _cell_index(self) -> dict[tuple[str, str | None], int]:
        return {cell: i for i, cell in enumerate(self.cells)}

    def group_of(self, ability: str) -> str:
        """The group an ability belongs to.

        Raises:
            ConfigError: If there is no such ability.
        """
        if ability not in self._group_of:
            raise ConfigError(f"Unknown ability {ability!r}: this benchmark has {', '.join(self.abilities)}.")
        return self._group_of[ability]

    def cell(self, ability: str, category: str | None = None) -> int:
        """Row of a cell in the packed state of the metric.

        Raises:
            ConfigError: If there is no such ability, or no such category in it.
        """
        index = self._cell_index.get((ability, category))
        if index is None:
            self.group_of(ability)
            known = ", ".join(map(repr, self.tree[self.group_of(ability)][ability])) or "none"
            raise ConfigError(f"Unknown category {category!r} of ability {ability!r}: expected one of {known}.")
        return index


class TaxonomyRows:
    """Collects a tree row by row, and refuses the first row that contradicts those before it.

    Attributes:
        tree: `{group: {ability: [category, …]}}` of the rows so far, in order of first appearance.
    """

    def __init__(self) -> None:
        self.tree: dict[str, dict[str, list[str]]] = {}
        self._group_of: dict[str, str] = {}
        self._has_categories: dict[str, bool] = {}

    def add(self, group: str, ability: str, category: str | None) -> None:
        """Adds the group, ability and category of one item.

        Raises:
            BenchmarkError: If a name cannot be used, or is used for a group and an ability; if an ability comes with two
                groups, or sometimes with and sometimes without a category.
        """
        if category in self.tree.get(group, {}).get(ability, ()):
            return  # as most are
        for name, kind in ((group, "group"), (ability, "ability")):
            problem = name_problem(name, kind)
            if problem is not None:
                raise BenchmarkError(problem)
        if ability == group or ability in self.tree or group in self._group_of:
            clash = group if group in self._group_of else ability
            raise BenchmarkError(
                f"Expected every group and ability to have a name of its own, but {quoted(clash)} is used for a group and "
                "an ability: rename one of them."
            )
        home = self._group_of.setdefault(ability, group)
        if home != group:
            raise BenchmarkError(
                f"Expected ability {quoted(ability)} in one group, but it comes in {quoted(home)} and {quoted(group)}."
            )
        if self._has_categories.setdefault(ability, category is not None) != (category is not None):
            raise BenchmarkError(
                f"Expected all items of ability {quoted(ability)} to have a category or none of them, but some do and some "
                "do not."
            )
        categories = self.tree.setdefault(group, {}).setdefault(ability, [])
        if category is not None and category not in categories:
            categories.append(category)
