"""Findings to where people will see them: the log, W&B's alerts (which it mails on), and a function of the user's own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from radar_callback.diagnosis import Finding

log = logging.getLogger(__name__)


def send(
    findings: Sequence[Finding],
    tell_loggers: Callable[[Callable[[Any], None]], None],
    on_finding: Callable[[Finding], None] | None = None,
) -> None:
    """Tells about findings. Call it on rank zero only.

    Alarms go to the log as warnings, notes as information. An object that a logger calls its `experiment` and that has a
    method `alert(title, text)`, as a W&B run has, gets the alarms. Somebody who cannot be told keeps neither the others from
    being told nor training from going on.

    Args:
        findings: New ones.
        tell_loggers: Calls a function with each logger of the run, and raises nothing.
        on_finding: Called with each finding.
    """
    for finding in findings:
        log.log(logging.WARNING if finding.is_alarm else logging.INFO, "radar: %s", finding.message)
        if on_finding is not None:
            try:
                on_finding(finding)
            except Exception:
                log.exception("Could not pass on a finding; training goes on.")
        if finding.is_alarm:
            title = f"radar: {finding.kind.replace('_', ' ')} of {finding.subject}"
            tell_loggers(lambda logger, title=title, text=finding.message: _alert(logger, title, text))  # type: ignore[misc]


def _alert(logger: Any, title: str, text: str) -> None:
    # A property of somebody else's, which may connect to a server: as likely to fail as the call.
    alert = getattr(getattr(logger, "experiment", None), "alert", None)
    if callable(alert):
        alert(title=title, text=text)
