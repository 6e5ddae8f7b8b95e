"""Charts into a page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import count

import plotly.graph_objects as go

from radar_callback.reporting.html.markup import Markup, text
from radar_callback.reporting.style import readable

PICTURE = ("toImage",)
ALL = (*PICTURE, "zoom2d", "pan2d", "resetScale2d")


class Embedder:
    """Turns the figures of one page into HTML.

    It numbers them: plotly would draw their ids by lot, and no two reports of a run would be equal.
    """

    def __init__(self) -> None:
        self._numbers = count(1)

    def __call__(
        self, figure: go.Figure | None, name: str, head: str = "", buttons: Sequence[str] = ALL, height: str = "100%"
    ) -> Markup:
        """A chart; nothing without a figure.

        Args:
            figure: What to show.
            name: Of the chart, escaped here.
            head: Tag of the heading that shows the name; without one only screen readers hear it.
            buttons: Which of plotly's it has; on a small chart, any would lie on the lines.
            height: In CSS, for a figure that has none of its own.
        """
        if figure is None:
            return Markup("")
        config = {
            "displaylogo": False,
            "responsive": True,
            # Those named and no others: among plotly's own is one that sends the data to its maker.
            "modeBarButtons": [[*buttons]],
            "displayModeBar": None if buttons else False,
            "toImageButtonOptions": {"format": "svg", "filename": re.sub(r"\W+", "_", name)},
        }
        drawn = figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            div_id=f"chart-{next(self._numbers)}",
            default_height=height,
            config={key: value for key, value in config.items() if value is not None},
        )
        told = text(readable(name))
        heading = f"<{head}>{told}</{head}>" if head else ""
        return Markup(f'<figure aria-label="{told}">{heading}{drawn}</figure>')
