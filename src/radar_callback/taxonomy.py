"""The tree that a benchmark's scores are reported in: groups -> abilities -> categories.

A *cell* is a leaf of the tree: one (ability, category) pair, or an ability alone where it has no categories. Scores are
summed per cell, so that an ability's score can be the mean over its categories first (macro average, as in the paper).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from radar_callback.errors import BenchmarkError, ConfigError

RESERVED = frozenset({"overall"})
"""Names that the log keys `radar/sds/<name>` already use for something else."""


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
                if not isinstance(name, str) or not name.strip() or "/" in name or name in RESERVED:
                    raise BenchmarkError(
                        f"Expected the name of a {kind} to be text without a slash and not 'overall', but got {name!r}: "
                        "it becomes part of the log key radar/sds/<name>; rename it."
                    )
                if name in seen:
                    raise BenchmarkError(
                        f"Expected every group and ability to have a name of its own, but {name!r} is used for a "
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
        tree: dict[str, dict[str, list[str]]] = {}
        home: dict[str, str] = {}
        bare: dict[str, bool] = {}
        for group, ability, category in rows:
            if home.setdefault(ability, group) != group:
                raise BenchmarkError(
                    f"Expected ability {ability!r} in one group, but it comes in {home[ability]!r} and {group!r}."
                )
            if bare.setdefault(ability, category is None) != (category is None):
                raise BenchmarkError(
                    f"Expected all items of ability {ability!r} to have a category or none of them, but some do and some "
                    "do not."
                )
            categories = tree.setdefault(group, {}).setdefault(ability, [])
            if category is not None and category not in categories:
                categories.append(category)
        return cls(tree)

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
