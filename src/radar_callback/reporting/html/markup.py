"""Small pieces of HTML, in which every text from outside is escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Any value as HTML: escaped, unless it is markup; a number with two decimals; nothing for None and NaN."""
    if isinstance(value, Markup):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Markup("–")
    if isinstance(value, float):
        return Markup(f"{value:.2f}")
    if isinstance(value, int) and not isinstance(value, bool):
        return Markup(f"{value:,}")
    return Markup(escape(str(value)))


def table(heads: Sequence[object], rows: Sequence[Sequence[object]], kind: str = "") -> Markup:
    """A table that scrolls by itself where the page is narrow.

    Example:
        >>> table(["ability", "score"], [["<b>", 0.5]])
        '<div class="scroll"><table class=""><thead><tr><th>ability</th><th>score</th></tr></thead><tbody><tr><td>&lt;b&gt;</td><td>0.50</td></tr></tbody></table></div>'
    """  # noqa: E501
    head = "".join(f"<th>{text(cell)}</th>" for cell in heads)
    body = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return Markup(
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def section(title: str, *parts: str, note: str = "") -> Markup:
    """A titled part of the page; empty if nothing is in it."""
    inside = "".join(part for part in parts if part)
    if not inside:
        return Markup("")
    told = f'<p class="note">{note}</p>' if note else ""
    return Markup(f"<section><h2>{text(title)}</h2>{told}{inside}</section>")


def signed(value: float | None) -> Markup:
    """A difference."""
    return Markup("–") if value is None or math.isnan(value) else Markup(f"{value:+.2f}".replace("-", "−"))
