"""Small pieces of HTML, in which every text from outside is escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


NOTHING = Markup("–")
"""Where there is no value."""


def text(value: object) -> Markup:
    """Any value as HTML: escaped, unless it is markup; a number with two decimals; a dash for None and NaN.

    Example:
        >>> text("<b>"), text(12345), text(-0.001), text(None)
        ('&lt;b&gt;', '12,345', '0.00', '–')
    """
    if isinstance(value, Markup):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    if isinstance(value, float):
        return Markup(f"{value:z.2f}".replace("-", "−"))
    if isinstance(value, int) and not isinstance(value, bool):
        return Markup(f"{value:,}".replace("-", "−"))
    return Markup(escape(str(value)))


def signed(value: float) -> Markup:
    """A difference; one that rounds to nothing has no sign.

    Example:
        >>> signed(0.25), signed(-0.25), signed(-0.001)
        ('+0.25', '−0.25', '0.00')
    """
    return text(value) if f"{value:z.2f}" == "0.00" else Markup(f"{value:+.2f}".replace("-", "−"))


def percent(value: float) -> Markup:
    """A share.

    Example:
        >>> percent(0.934), percent(-0.001), percent(float("nan"))
        ('93%', '0%', '–')
    """
    return NOTHING if math.isnan(value) else Markup(f"{100 * value:z.0f}%".replace("-", "−"))


def table(heads: Sequence[object], rows: Sequence[Sequence[object]], kind: str = "") -> Markup:
    """A table that scrolls by itself where the page is narrow.

    Args:
        heads: Of the columns; none, and the table has no head.
        rows: Cells.
        kind: Its class in the style sheet.

    Example:
        >>> table([], [["<b>", 0.5]])
        '<div class="scroll"><table class=""><tbody><tr><td>&lt;b&gt;</td><td>0.50</td></tr></tbody></table></div>'
    """
    head = "".join(f'<th scope="col">{text(cell)}</th>' for cell in heads)
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    body = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return Markup(f'<div class="scroll"><table class="{kind}">{head}<tbody>{body}</tbody></table></div>')


def section(title: str, *parts: str, note: str = "") -> Markup:
    """A titled part of the page; empty if nothing is in it.

    Args:
        title: Escaped here.
        parts: HTML.
        note: A sentence under the title, escaped here.
    """
    inside = "".join(part for part in parts if part)
    if not inside:
        return Markup("")
    told = f'<p class="note">{text(note)}</p>' if note else ""
    return Markup(f"<section><h2>{text(title)}</h2>{told}{inside}</section>")
