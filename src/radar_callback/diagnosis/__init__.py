"""From a history to findings: pure statistics, no torch. `diagnose` is all that the rest of the library needs."""

from radar_callback.diagnosis.diagnose import Diagnosis, alarms_of, diagnose, findings_of
from radar_callback.diagnosis.emergence import Emergence
from radar_callback.diagnosis.findings import Cause, Finding, Kind

__all__ = ["Cause", "Diagnosis", "Emergence", "Finding", "Kind", "alarms_of", "diagnose", "findings_of"]
