"""The options for reaching servers, in a form that every process of a run can make a transport of."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..model.settings import Settings
from ..network.connector import ConnectTo
from ..network.transport import HttpTransport
from ..sources.gdrive import DriveLeads


@dataclass(frozen=True, slots=True)
class Reach:
    """How servers are reached; the fields are those of `api.FetchOptions`.

    Args:
        connect_to: Rules as of curl's --connect-to, `HOST:PORT:HOST:PORT`.
        cafile: File of additional certificate authorities in PEM form, None for the system's alone.
        proxies: Scheme → URL of the proxy, as `urllib.request.getproxies` returns them.
    """

    connect_to: tuple[str, ...] = ()
    cafile: str | None = None
    proxies: dict[str, str] = field(default_factory=dict)


def transport_of(settings: Settings, reach: Reach) -> HttpTransport:
    """Return the transport of a process.

    Args:
        settings: The settings of the run.
        reach: How servers are reached.

    Returns:
        The transport, not yet entered.

    Raises:
        ValueError: A rule of `connect_to` is not of the form HOST:PORT:HOST:PORT.
    """
    return HttpTransport(
        settings.limits,
        settings.retry,
        settings.timeouts,
        connect_to=[ConnectTo.parse(rule) for rule in reach.connect_to],
        cafile=reach.cafile,
        proxies=reach.proxies,
        downgrade=settings.links.downgrade == "allow",
        leads=DriveLeads(),
        pages=settings.network.pages == "accept",
    )
