"""The options for reaching servers, in a form that every process of a run can make a transport of."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import field
from typing import Final

from ..model.dataclasses import dataclass
from ..model.errors import SettingsError
from ..model.settings import Settings
from ..network.certificates import check_certificates
from ..network.connector import ConnectTo
from ..network.credentials import Credentials, read_netrc
from ..network.proxies import Proxies
from ..network.transport import HttpTransport
from ..sources.gdrive import DriveLeads

IDLE_PART: Final = 8
"""An eighth of the file descriptors is for unused connections."""
_MOST_IDLE: Final = 4096  # unused connections


@dataclass(frozen=True, slots=True)
class Reach:
    """How servers are reached; the fields are those of `api.FetchOptions`.

    Args:
        connect_to: Rules as of curl's --connect-to, `HOST:PORT:HOST:PORT`.
        cafile: File of additional certificate authorities in PEM form, None for the system's alone.
        proxies: Scheme → URL of the proxy, as `urllib.request.getproxies` returns them.
        credentials: Those of the netrc file.
        notes: Sentences for the report.
    """

    connect_to: tuple[str, ...] = ()
    cafile: str | None = None
    proxies: dict[str, str] = field(default_factory=dict, repr=False)
    credentials: Credentials = Credentials()
    notes: tuple[str, ...] = ()


def checked_reach(
    settings: Settings,
    connect_to: tuple[str, ...],
    cafile: str | None,
    proxies: Mapping[str, str],
    environment: Mapping[str, str],
) -> Reach:
    """Check how servers are to be reached, before the run begins, and read the netrc file.

    Args:
        settings: `network` applies here.
        connect_to: As in `Reach`.
        cafile: As in `Reach`.
        proxies: As in `Reach`.
        environment: The environment variables; `NETRC` applies here.

    Raises:
        SettingsError: A rule is malformed, a proxy cannot be used, or `cafile` holds no certificates.
    """
    try:
        Proxies(proxies)
        for rule in connect_to:
            ConnectTo.parse(rule)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    if cafile is not None:
        check_certificates("cafile", cafile)
    credentials, problem = Credentials(), None
    if settings.network.netrc == "use":
        credentials, problem = read_netrc(environment)
    return Reach(connect_to, cafile, dict(proxies), credentials, (problem,) if problem else ())


def descriptors() -> int:
    """Return the number of file descriptors that this process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft


def transport_of(settings: Settings, reach: Reach, source: str = "") -> HttpTransport:
    """Return the transport of a process.

    Args:
        settings: The settings of the run.
        reach: How servers are reached.
        source: The address from which connections are made; empty for any.

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
        credentials=reach.credentials,
        downgrade=settings.links.downgrade == "allow",
        leads=DriveLeads(),
        pages=settings.network.pages == "accept",
        source=source,
        most_idle=min(descriptors() // IDLE_PART, _MOST_IDLE),
        dns_servers=[server for server in settings.network.dns_servers.split(",") if server],
    )
