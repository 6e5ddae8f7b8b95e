"""The results as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# What the prototype measured for its packed pass, by family: 32k K=2, 32k K=4, 152k K=2, 152k K=4.
PROTOTYPE = {
    "qwen2_vl": (2.5, 4.4, 5.4, 10.7),
    "qwen2_5_vl": (2.3, 4.8, 4.9, 9.9),
    "qwen3_vl": (2.3, 4.5, 4.8, 8.8),
    "llava": (4.2, 7.6, 12.0, 27.5),
    "llava_onevision": (3.2, 5.8, 10.1, 22.0),
    "internvl": (2.7, 5.1, 6.0, 12.8),
    "smolvlm": (1.9, 3.9, 3.1, 5.7),
    "idefics3": (3.0, 5.3, 6.3, 11.7),
    "paligemma": (4.9, 8.5, 13.9, 20.7),
    "gemma3": (2.6, 5.0, 5.7, 12.0),
    "mllama": (2.1, 4.5, 3.1, 5.4),
    "blip2": (3.2, 5.0, 7.2, 10.5),
}
CELLS = ((32_000, 2), (32_000, 4), (151_936, 2), (151_936, 4))


def line(row: dict[str, Any]) -> str:
    """One row while the run goes on."""
    return (
        f"{row['family']:16s} {row['vocab']:7d} K={row['k']} {row['strategy']:10s} {row['ratio_to_authors']:5.2f}x authors, "
        f"floor {row['flops_ratio']:5.2f}x, {100 * row['fraction_of_floor']:4.0f}% of it, {row['peak_mib']:6.0f} MiB, "
        f"padding {100 * row['padding_share']:3.0f}%, off by {row['max_abs_diff']:.0e}"
    )


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A table of what `auto` gives, a table of every way, and a table of memory."""
    found = {(r["family"], r["vocab"], r["k"], r["strategy"]): r for r in rows}
    families = list(dict.fromkeys(row["family"] for row in rows))
    chosen = {row["family"]: row["strategy"] for row in rows if row["auto"]}
    cells = [cell for cell in CELLS if any((r["vocab"], r["k"]) == cell for r in rows)]
    heads = [f"{round(vocab / 1000)}k K={k}" for vocab, k in cells]
    parts = [
        "# The scoring engine against the authors' way\n",
        "Speed-up of the model part; in brackets the share of the FLOP floor that is reached, the time of a plain forward of the "
        "prompts alone as a share of it, and the prototype's speed-up.\n",
        _table(
            ["family", "way", *heads],
            [[f, chosen[f], *(_speed(found.get((f, *cell, chosen[f])), cell) for cell in cells)] for f in families],
        ),
        "\nEvery way that a family honours:\n",
        _table(
            ["family", "way", *heads],
            [
                [f, way, *(_ratio(found.get((f, *cell, way))) for cell in cells)]
                for f in families
                for way in ("reference", "cached", "packed")
                if any((f, *cell, way) in found for cell in cells)
            ],
        ),
        "\nPeak memory of tensors in MiB, weights excluded: the authors' largest single item, then all items in batches:\n",
        _table(
            ["family", "way", *heads],
            [
                [f, way, *(_memory(found.get((f, *cell, way))) for cell in cells)]
                for f in families
                for way in ("authors", chosen[f])
            ],
        ),
        f"\nLargest difference of a mean logit from the authors' way: {max(row['max_abs_diff'] for row in rows):.1e}.\n",
    ]
    return "\n".join(parts)


def _speed(row: dict[str, Any] | None, cell: tuple[int, int]) -> str:
    if row is None:
        return ""
    alone = row["fraction_of_prompts_alone"]
    plain = "" if alone is None else f", {100 * alone:.0f}%"
    before = PROTOTYPE.get(row["family"])
    told = f", {before[CELLS.index(cell)]}x" if before else ""
    return f"{row['ratio_to_authors']:.1f}x ({100 * row['fraction_of_floor']:.0f}%{plain}{told})"


def _ratio(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{row['ratio_to_authors']:.1f}x ({100 * row['fraction_of_floor']:.0f}%)"


def _memory(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{row['peak_mib']:.0f}"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"
