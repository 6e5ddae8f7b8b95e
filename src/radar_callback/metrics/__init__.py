"""The Soft Discrimination Score over a benchmark."""

from radar_callback.metrics.sds import SoftDiscriminationScore

__all__ = ["SoftDiscriminationScore"]
