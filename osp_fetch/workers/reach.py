"""How servers are reached, for whichever process of a run needs a transport."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..model.settings import Settings
from ..network.connector import ConnectTo
from ..network.transport import HttpTransport
from ..sources.gdrive import DriveLeads


@dataclass(frozen=True, slots=True)
class Reach:
    """How servers are reached; as in `api.FetchOptions`."""

    connect_to: tuple[str, ...] = ()
    cafile: str | None = None
    proxies: dict[str, str] = field(default_factory=dict)


def transport_of(settings: Settings, reach: Reach) -> HttpTransport:
    """The transport that these mean."""
    return HttpTransport(
        settings.limits,
        settings.retry,
        settings.timeouts,
        connect_to=[ConnectTo.parse(rule) for rule in reach.connect_to],
        cafile=reach.cafile,
        proxies=reach.proxies,
        downgrade=settings.links.downgrade == "allow",
        leads=DriveLeads(),
    )
