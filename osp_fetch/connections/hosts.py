"""The table of hosts: makes the state of a host when it is needed, and forgets hosts that are idle."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from typing import Final

from ..model.profile import Profile
from ..model.settings import HostLimits, Limits
from ..model.urls import name_of
from ..model.well_known import WELL_KNOWN
from .breaker import CircuitBreaker
from .controller import Controller
from .host import Host
from .limit import START, ConcurrencyLimit

# The end of a name with a port. An IPv6 address is in brackets.
_PORT: Final = re.compile(r":\d+$")
# Idle hosts whose state is kept, at about 2 KB each.
_IDLE_KEPT: Final = 1000
# Forgotten hosts of which it is remembered that they have answered, at about 100 bytes each.
_HEARD_KEPT: Final = 100_000


class Hosts:
    """The states of the hosts of a connection pool.

    Args:
        limits: `connections` and `requests_per_second` apply here.
        profiles: `host:port` → measured settings of the host, from `bench --save`.
        per_host: Largest number of connections to one host.
        share: Initial connections per host in a worker, None in the process of a run.
        own: Name of a host → limits of its own.

    Attributes:
        in_use: Hosts with open connections.
        serving: Those of them that have answered, and share the connections that bring bytes.
        parts: Number of processes that share the limits of a host; see `divide`.
    """

    def __init__(
        self,
        limits: Limits,
        profiles: Mapping[str, Profile],
        per_host: int,
        share: int | None,
        own: Mapping[str, HostLimits],
    ) -> None:
        self._limits, self._own = limits, own
        self._profiles, self._per_host, self._share = profiles, per_host, share
        self._controls = limits.connections == "auto" and share is None
        self.parts = 1
        self._states: dict[str, Host] = {}
        self.in_use: dict[Host, None] = {}
        self.serving: set[Host] = set()
        self._idle: dict[str, Host] = {}  # hosts without connections, the one used last at the end
        self._heard: dict[str, None] = {}  # forgotten hosts that had answered

    def get(self, name: str) -> Host:
        """Return the state of the host `name`, `host:port`."""
        state = self._states.get(name)
        if state is None:
            state = self._states[name] = self._idle[name] = self._made(name)
            if len(self._idle) > _IDLE_KEPT:
                self._forget_one()
        return state

    def known(self, name: str) -> Host | None:
        """Return the state of a host, None if there is none."""
        return self._states.get(name)

    def all(self) -> Iterable[Host]:
        """Return the states of all hosts."""
        return self._states.values()

    def named(self, host: str) -> list[str]:
        """Return the `host:port` that `host` means: itself, or without a port, every port that is likely."""
        if _PORT.search(host):
            return [host]
        known = [name for name in self._states if name_of(name) == host]
        return list(dict.fromkeys([f"{host}:443", f"{host}:80", *known]))

    def measured(self, name: str) -> Profile | None:
        """Return the profile that `bench` made of a host; a run alone learns only which ranges it takes."""
        profile = self._profiles.get(name)
        return profile if profile and profile.bytes_per_second else None

    def widest(self, name: str) -> int | None:
        """Return the largest range in bytes that a host takes by its profile, None for any."""
        return self._profiles[name].widest if name in self._profiles else None

    def resize(self, per_host: int) -> None:
        """Change the largest number of connections to one host."""
        self._per_host = per_host
        for state in self._states.values():
            state.limit.resize(self._most(state.name), follows=not self._controls)

    def divide(self, parts: int) -> None:
        """Use one of `parts` parts of what the settings allow for a host: its request rate, its connections.

        A worker uses a part of the rate only; its connections are assigned.
        """
        if parts == self.parts:
            return
        self.parts = parts
        for state in self._states.values():
            state.interval = self._interval(limits_of(state.name, self._limits, self._own))

    def use(self, state: Host) -> None:
        """Record that a host has open connections."""
        self._idle.pop(state.name, None)
        self.in_use[state] = None
        self.settle(state)

    def rest(self, state: Host) -> None:
        """Record that a host has no open connections any more."""
        del self.in_use[state]
        self.serving.discard(state)
        self._idle[state.name] = state
        if len(self._idle) > _IDLE_KEPT:
            self._forget_one()

    def settle(self, state: Host) -> None:
        """Record that a host in use has answered, or that it is down."""
        if state.breaker.is_new:
            self.serving.discard(state)
        elif state in self.in_use:
            self.serving.add(state)

    def others_in_use(self, state: Host) -> bool:
        """Return whether another host than `state` has open connections."""
        return len(self.in_use) > (state in self.in_use)

    def _made(self, name: str) -> Host:
        own, most = limits_of(name, self._limits, self._own), self._most(name)
        known = self.measured(name) if self._controls else None
        first = known.connections if known else START
        start = first if self._controls else most if self._share is None else self._share
        controller = Controller(ConcurrencyLimit(most, start, known=known is not None))
        state = Host(
            name, controller, not self._controls or known is not None, self._interval(own),
            CircuitBreaker(heard=name in self._heard),
        )  # fmt: skip
        state.manners.widest = self.widest(name)
        return state

    def _interval(self, own: HostLimits) -> float:
        return self.parts / own.requests_per_second if own.requests_per_second else 0.0

    def _most(self, name: str) -> int:
        own = limits_of(name, self._limits, self._own).connections
        if own == "auto":
            return self._per_host
        # a worker may have no part of a small number: one connection all the same would exceed the limit
        return min(self._per_host, max(1, own // self.parts) if self._share is None else own)

    def _forget_one(self) -> None:
        """Forget the host that was not used for longest, unless requests to it wait.

        A worker process forgets none, because the parent process has assigned a share of each host to it. A
        node of a cluster forgets those of which it has no share.
        """
        if self._share:
            return
        name = next(iter(self._idle))
        state = self._idle.pop(name)
        has_share = self._share is not None and state.limit.value > 0
        if (
            has_share
            or state.queue.first is not None
            or state.quiet_until > asyncio.get_running_loop().time()
        ):
            self._idle[name] = state
            return
        del self._states[name]
        if state.breaker.heard:
            self._heard[name] = None
            if len(self._heard) > _HEARD_KEPT:
                del self._heard[next(iter(self._heard))]


def limits_of(name: str, limits: Limits, own: Mapping[str, HostLimits]) -> HostLimits:
    """Return the limits that apply to one host.

    Args:
        name: `host:port`.
        limits: The limits of all hosts. Where the user has set them, they replace those of well-known hosts.
        own: Name of a host → limits that the user has set for it.
    """
    host = name_of(name).strip("[]")
    if host in own:
        found = own[host]
        rate = found.requests_per_second or limits.requests_per_second
        return HostLimits(found.connections, rate)
    known = WELL_KNOWN.get(host, HostLimits())
    return HostLimits(
        known.connections if limits.per_host == "auto" else "auto",
        limits.requests_per_second or known.requests_per_second,
    )
