"""`SoftDiscriminationScore`: the score of a whole benchmark, as a torchmetrics metric."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from radar_callback.metrics.sums import Column, Report, item_columns, report
from radar_callback.taxonomy import Taxonomy


class SoftDiscriminationScore(Metric):
    """Soft Discrimination Score per ability, group and overall (RADAR, arXiv 2602.12892, equations 3 and 4).

    The state is one int64 tensor of fixed-point sums, so an all-reduce gives the same bits under any number of ranks, and a
    sync costs one reduction however many abilities there are.

    Keep it on the callback or the loop rather than as an attribute of the model: under `bf16-true` a model's cast reaches
    metrics inside it (int64 sums survive that, but there is no reason to try).

    Args:
        abilities: What is scored: a list of abilities, `{group: [ability]}`, `{group: {ability: [category]}}` or a
            :class:`~radar_callback.taxonomy.Taxonomy`.
        kwargs: Passed on to :class:`torchmetrics.Metric` (`sync_on_compute`, `process_group`, …).

    Example:
        >>> import torch
        >>> metric = SoftDiscriminationScore({"perception": ["colour"], "reasoning": ["maths"]})
        >>> metric.update(
        ...     scores=torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]]),
        ...     mask=None,
        ...     target=torch.tensor([0, 1, 1]),
        ...     ability=["colour", "colour", "maths"],
        ... )
        >>> result = metric.compute()
        >>> round(result["abilities"]["colour"]["sds"], 4), result["abilities"]["colour"]["count"]
        (0.6904, 2)
        >>> round(result["overall"]["sds"], 4), result["overall"]["chance"]
        (0.7107, 0.5)
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    sums: Tensor

    def __init__(
        self,
        abilities: Taxonomy | Mapping[str, Mapping[str, Sequence[str]]] | Mapping[str, Sequence[str]] | Sequence[str],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.taxonomy = Taxonomy.of(abilities)
        self.add_state(
            "sums",
            default=torch.zeros(len(self.taxonomy.cells), len(Column), dtype=torch.int64),
            dist_reduce_fx="sum",
        )

    def update(
        self,
        scores: Tensor,
        mask: Tensor | None,
        target: Tensor | None,
        ability: Sequence[str] | Tensor,
        weight: Tensor | None = None,
        *,
        logprobs: Tensor | None = None,
        category: Sequence[str | None] | None = None,
    ) -> None:
        """Adds a batch of items.

        Args:
            scores: `[N, K]` mean raw logit of each candidate's tokens.
            mask: `[N, K]` boolean, true where a candidate exists; None if all do.
            target: `[N]` index of the correct candidate; None if it is always 0.
            ability: N names, or an integer tensor `[N]` of indices into `taxonomy.cells` (without categories: into
                `taxonomy.abilities`).
            weight: `[N]` whole numbers: how often an item counts. 0 leaves it out, whatever its row holds, as for the
                padding that idle ranks score. 1 if left out.
            logprobs: `[N, K]` mean log-probability of each candidate's tokens; without it `sds_logprob` is NaN.
            category: N names (None for items of an ability without categories), where abilities are given by name.

        Raises:
            ValueError: If the tensors do not fit together, or a weight is negative or no whole number.
            ConfigError: If an ability or category is unknown.
        """
        n = scores.shape[0]
        cells = self._cells(ability, category, n).to(scores.device)
        columns = item_columns(scores, mask, target, logprobs) if weight is None else None
        if weight is not None:
            weight = _whole(weight, n)
            keep = weight > 0
            columns = item_columns(
                scores[keep],
                None if mask is None else mask[keep],
                None if target is None else target[keep],
                None if logprobs is None else logprobs[keep],
            ) * weight[keep, None].to(scores.device)
            cells = cells[keep]
        assert columns is not None
        self.sums.index_add_(0, cells.to(self.sums.device), columns.to(self.sums.device))

    def compute(self) -> Report:
        """The report so far, over all ranks.

        Returns:
            `{"abilities": {name: row}, "groups": {name: row}, "overall": row}`; a row has `sds`, `sds_logprob`,
            `accuracy`, `count`, `se` (standard error of `sds`) and `chance`, an ability's also `group`. NaN where nothing
            was scored.
        """
        return report(self.sums, self.taxonomy)

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        """Without torchmetrics' warning that nothing was counted: a rank without items asks for the sums of the others."""
        wrapped = super()._wrap_compute(compute)

        @wraps(wrapped)
        def quiet(*args: Any, **kwargs: Any) -> Any:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*was called before the ``update`` method")
                return wrapped(*args, **kwargs)

        return quiet

    @property
    def failed(self) -> int:
        """Items that had a NaN or infinite score, on this rank since the last reset."""
        return int(self.sums[:, Column.FAILED].sum())

    def _cells(self, ability: Sequence[str] | Tensor, category: Sequence[str | None] | None, n: int) -> Tensor:
        if isinstance(ability, Tensor):
            if category is not None:
                raise ValueError("Expected `category` only with abilities by name: indices point at cells already.")
            if ability.shape != (n,) or ability.dtype not in (torch.int64, torch.int32):
                raise ValueError(
                    f"Expected `ability` to be {n} names or an integer tensor [{n}], but got {ability.dtype} "
                    f"{list(ability.shape)}."
                )
            if n and not 0 <= int(ability.min()) <= int(ability.max()) < len(self.taxonomy.cells):
                raise ValueError(
                    f"Expected ability indices from 0 to {len(self.taxonomy.cells) - 1}, but got {int(ability.min())} to "
                    f"{int(ability.max())}."
                )
            return ability.long()
        categories = [None] * n if category is None else category
        if isinstance(ability, str) or len(ability) != n or len(categories) != n:
            raise ValueError(f"Expected one ability (and category) for each of the {n} items, but got {ability!r}.")
        return torch.tensor(
            [self.taxonomy.cell(a, c) for a, c in zip(ability, categories, strict=True)], dtype=torch.int64
        )


def _whole(weight: Tensor, n: int) -> Tensor:
    if weight.shape != (n,) or bool((weight < 0).any()) or bool((weight != weight.round()).any()):
        raise ValueError(
            f"Expected `weight` to be {n} whole numbers of at least 0 (exact sums need that), but got {weight.tolist()}."
        )
    return weight.long()
