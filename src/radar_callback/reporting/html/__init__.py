"""The report: histories as one self-contained page."""

from radar_callback.reporting.html.page import report_page
from radar_callback.reporting.html.run import Run, load_run

__all__ = ["Run", "load_run", "report_page"]
