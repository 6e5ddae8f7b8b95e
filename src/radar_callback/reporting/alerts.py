"""Findings to where people will see them: the log, W&B's alerts (which it mails on), and a function of the user's own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from radar_callback.diagnosis import Finding

log = logging.getLogger(__name__)


def send(
    findings: Sequence[Finding], loggers: Iterable[Any], on_finding: Callable[[Finding], None] | None = None
) -> None:
    """Tells about findings. Call it on rank zero only.

    Alarms go to the log as warnings, notes as information. An object that a logger calls its `experiment` and that has a
    method `alert(title, text)`, as a W&B run has, gets the alarms. Somebody who cannot be told keeps neither the others from
    being told nor training from going on.

    Args:
        findings: New ones.
        loggers: Of the Trainer.
        on_finding: Called with each.
    """
    for finding in findings:
        log.log(logging.WARNING if finding.is_alarm else logging.INFO, "radar: %s", finding.message)
        tell: list[Callable[[], Any]] = []
        if on_finding is not None:
            tell.append(lambda one=finding: on_finding(one))  # type: ignore[misc]
        if finding.is_alarm:
            title = f"radar: {finding.kind.replace('_', ' ')} of {finding.subject}"
            for logger in loggers:
                tell.append(lambda to=logger, name=title, one=finding: _alert(to, name, one.message))  # type: ignore[misc]
        for one in tell:
            try:
                one()
            except Exception:
                log.exception("Could not pass on a finding; training goes on.")


def _alert(logger: Any, title: str, text: str) -> None:
    # A property of somebody else's, which may connect to a server: as likely to fail as the call.
    alert = getattr(getattr(logger, "experiment", None), "alert", None)
    if callable(alert):
        alert(title=title, text=text)
