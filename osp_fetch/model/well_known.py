"""Limits that the operators of well-known hosts state, so that a run is not blocked. Read on 2026-11-29.

They apply unless the settings of a run say otherwise: `[hosts."NAME"]`, `limits.per_host` or
`limits.requests_per_second`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .settings import HostLimits

WELL_KNOWN: Final[Mapping[str, HostLimits]] = {
    # Wikimedia's robot policy of 2025-04: a total concurrency of at most 2 for media files
    # (https://wikitech.wikimedia.org/wiki/Robot_policy)
    "upload.wikimedia.org": HostLimits(connections=2),
    # SEC, 2021-07-27: at most 10 requests per second, "regardless of the number of machines"
    # (https://www.sec.gov/filergroup/announcements-old/new-rate-control-limits)
    "www.sec.gov": HostLimits(requests_per_second=10.0),
    "data.sec.gov": HostLimits(requests_per_second=10.0),
}
