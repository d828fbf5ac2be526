"""Settings: the only module that defines defaults, each with its reason beside it.

`Settings.load` applies layers on top of the defaults. A layer comes from a TOML file, the environment or
`--set`. Sizes are in bytes and may be written as `"64MiB"`. Times are in seconds and may also be `"30s"`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field, fields, replace
from typing import Any, Final

from .dataclasses import dataclass
from .errors import SettingsError
from .quantities import (
    Auto,
    count,
    file_mode,
    host_name,
    one_of,
    or_auto,
    part_bytes,
    plain_text,
    quantity,
    seconds,
    server_list,
    size,
)
from .spelling import nearest
from .timetable import rate_of

Layer = Mapping[str, Mapping[str, Any]]

_MEMORY: Final = 128 << 20  # bytes of buffers by default


def _setting(default: Any, read: Callable[[object], Any]) -> Any:
    return field(default=default, metadata={"read": read})


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on connections, rates and memory. A rate of 0 means no limit.

    Attributes:
        connections: maximum number of connections to all hosts together.
        per_host: maximum number of connections to one host.
        part_size: bytes of one part, at least 64 KiB.
        rate: maximum total rate, in bytes per second; or a timetable of rates, `[DAY-]HH:MM,RATE …`.
        requests_per_second: maximum number of requests to one host each second.
        memory: bytes that the buffers of all connections, and the parts on their way to a bucket, may use
            together.
        redirects: maximum number of redirects that one request follows.
        processes: number of processes with an event loop.
        file_size: maximum bytes of a file whose length neither the server nor the manifest states.
        file_time: maximum seconds for one file, from its first connection; 0 for no limit.
    """

    # "auto": the controller of each host finds its concurrency limit by measured goodput, up to 128
    # connections in total, or as many as fit in `memory`. A number is used as it is.
    connections: int | Auto = _setting("auto", or_auto(count))
    # "auto": only `connections` limits one host.
    per_host: int | Auto = _setting("auto", or_auto(count))
    # "auto": four seconds at the measured rate of a connection, between 4 and 64 MiB. That is long enough to
    # make the round trip of a request negligible, and short enough that the last part of a file ends soon.
    part_size: int | Auto = _setting("auto", or_auto(part_bytes))
    rate: int | str = _setting(0, lambda v: rate_of(v, size))
    requests_per_second: float = _setting(0.0, lambda v: quantity(v, {"": 1.0}, "a rate"))
    # "auto": 128 MiB, of which `connections = "auto"` takes a connection for each 1.5 MiB. For a bucket
    # 512 MiB: what arrives is kept in memory until it is uploaded and hashed, in parts of at least 8 MiB.
    memory: int | Auto = _setting("auto", or_auto(size))
    redirects: int = _setting(20, count)
    # One uses two cores: small files are hashed and written by a helper process. "auto": one for every four
    # cores, up to four.
    processes: int | Auto = _setting(1, or_auto(count))
    # "auto": what is free on the disk beside `storage.min_free`. A body without a length may never end.
    file_size: int | Auto = _setting("auto", or_auto(size))
    file_time: float = _setting(0.0, seconds)

    @property
    def buffer_memory(self) -> int:
        """Bytes that the buffers of all connections may use together."""
        return _MEMORY if self.memory == "auto" else self.memory


@dataclass(frozen=True, slots=True)
class Retry:
    """How long a failure is retried.

    Attributes:
        attempts: consecutive attempts without progress after which a file fails. Progress resets the count,
            unless it is slower than `timeouts.slowest` over `timeouts.slow_for` and the pauses.
        initial: first pause before a retry, in seconds. The pause doubles with each attempt, with full
            jitter.
        longest: upper bound of that pause, in seconds. A host that has never answered is probed for an
            eighth of it; then its files are set back to the end of the run, where it is probed once more.
        retry_after: longest pause that a server may request, in seconds.
        outage: how long the circuit breaker probes a host that answered earlier, in seconds.
    """

    attempts: int = _setting(8, count)
    initial: float = _setting(0.5, seconds)
    longest: float = _setting(60.0, seconds)
    # A server that requests a longer pause is treated as a server that refuses the file.
    retry_after: float = _setting(900.0, seconds)
    # One hour: while the host is probed, its files wait and none of them fails.
    outage: float = _setting(3600.0, seconds)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """After how many seconds without progress a connection fails.

    Attributes:
        connect: seconds to establish a connection.
        head: seconds until the complete head of a reply has arrived.
        idle: seconds without a byte of the body.
        slowest: minimum rate of a body, in bytes per second.
        slow_for: seconds over which the rate must stay below `slowest` before the connection is closed; 0
            disables the check.
    """

    connect: float = _setting(20.0, seconds)
    # Covers the complete head, so that a server that sends 1xx replies without end times out, too.
    head: float = _setting(30.0, seconds)
    idle: float = _setting(20.0, seconds)
    # Counts only the time that is spent on reading.
    slowest: int = _setting(1 << 10, size)
    slow_for: float = _setting(60.0, seconds)


@dataclass(frozen=True, slots=True)
class Storage:
    """How files are written to disk.

    Attributes:
        min_free: bytes that stay free on the disk.
        durability: "full" syncs every file before it is published; "none" leaves syncing to the operating
            system, and a power loss may cost files.
        existing: what happens to a file under a final name that no run of osp-fetch wrote.
        disk_patience: seconds to wait for free space on a full disk.
        mode: permissions of files, such as "0664", which lets the group share the folder; "umask" for those
            of the process. Folders can be searched by those who may read.
        log_size: bytes of the event log, with its older parts; 0 for no bound.
        mtime: "server" sets the modification time of a file to the server's Last-Modified; "local" leaves it.
    """

    min_free: int = _setting(1 << 30, size)
    durability: str = _setting("full", one_of("full", "none"))
    # "keep" moves the file to .osp-fetch/replaced/; "overwrite" replaces it.
    existing: str = _setting("keep", one_of("keep", "overwrite"))
    disk_patience: float = _setting(600.0, seconds)
    mode: str = _setting("umask", file_mode)
    # A file takes about 240 bytes: without a bound, ten million files would take 2.4 GB.
    log_size: int = _setting(256 << 20, size)
    # As wget does. Builds, rsync and people see which files are new at the source.
    mtime: str = _setting("server", one_of("server", "local"))


@dataclass(frozen=True, slots=True)
class Links:
    """Handling of links that expire, and of redirects that are not encrypted.

    Attributes:
        on_expired: "exit" ends the run once only parked files are left; "wait" waits for fresh links.
        downgrade: whether a redirect from https to plain http is followed.
        command: shell command that obtains fresh links; empty for none.
        command_time: seconds after which the command is stopped.
    """

    on_expired: str = _setting("exit", one_of("exit", "wait"))
    # "refuse": on a plain http connection, any party on the network path could replace the bytes.
    downgrade: str = _setting("refuse", one_of("refuse", "allow"))
    command: str = _setting("", plain_text)
    # A browser login takes about a minute; a command that takes longer than this is assumed to hang.
    command_time: float = _setting(120.0, seconds)


@dataclass(frozen=True, slots=True)
class Network:
    """How servers are spoken to, and which replies are taken for the file.

    Attributes:
        netrc: "use" sends the credentials of the netrc file to hosts for which neither the row nor the link
            has any; "ignore" does not read the file.
        pages: what happens to an HTML or XML page, or a short text, in place of a file whose name promises
            something else and that no size and no digest identifies.
        dns_servers: name servers, `IP` or `IP:PORT`, comma-separated; empty for those of the system.
    """

    netrc: str = _setting("use", one_of("use", "ignore"))
    # "refuse" fails the file after three pages; "accept" saves what the server sends.
    pages: str = _setting("refuse", one_of("refuse", "accept"))
    dns_servers: str = _setting("", server_list)


@dataclass(frozen=True, slots=True)
class S3:
    """How a bucket is reached. Credentials, region and profile are found as every AWS tool finds them.

    Attributes:
        endpoint: URL of the store; empty for the one of the environment or the profile, or that of AWS.
        addressing: "path" puts the bucket into the path of the URL, "virtual" into the name of the host;
            "auto" takes the path for any store but AWS.
        source_endpoint: URL of the store of `s3://` SOURCEs; empty for `endpoint`.
        sign: "auto" signs the requests to `s3://` SOURCEs if there are credentials, "never" signs none.
        requester_pays: "accept" lets `s3://` SOURCEs charge the user's account.
    """

    endpoint: str = _setting("", plain_text)
    addressing: str = _setting("auto", one_of("auto", "path", "virtual"))
    source_endpoint: str = _setting("", plain_text)
    sign: str = _setting("auto", one_of("auto", "never"))
    requester_pays: str = _setting("refuse", one_of("refuse", "accept"))


@dataclass(frozen=True, slots=True)
class Notify:
    """Which notices `--notify` and `--on-event` send, and how often.

    Attributes:
        host_down: seconds for which a host that answered earlier must be silent.
        stalled: seconds without a byte and without a finished file.
        pace: seconds over which the rate is averaged, for the estimate whether the links last.
        pause: seconds that the pauses requested by one host must add up to within `pace`.
        every: least seconds between two notices of one kind.
        most: largest number of notices in one run, without those of its begin and end.
        timeout: seconds after which the delivery of one notice is ended.
        kinds: "all"; "problems" for what needs a person; or the names of kinds, comma-separated.
    """

    # Most outages are shorter. A host is probed at least once a minute (`retry.longest`).
    host_down: float = _setting(900.0, seconds)
    # Longer than every timeout and pause between two attempts.
    stalled: float = _setting(600.0, seconds)
    # Long enough to cover the search for the concurrency limit, short enough to be reported on the first day.
    pace: float = _setting(1800.0, seconds)
    # Shorter pauses are normal: servers that limit requests ask for a few seconds each time.
    pause: float = _setting(60.0, seconds)
    every: float = _setting(3600.0, seconds)
    # A run of a month in which something happens each day stays below it.
    most: int = _setting(100, count)
    timeout: float = _setting(30.0, seconds)
    kinds: str = _setting("all", plain_text)


@dataclass(frozen=True, slots=True)
class HostLimits:
    """Limits for one host, as `[hosts."NAME"]` states them. They apply in place of those of `Limits`.

    Attributes:
        connections: maximum number of connections to the host.
        requests_per_second: maximum number of requests to it each second; 0 for no limit.
    """

    connections: int | Auto = _setting("auto", or_auto(count))
    requests_per_second: float = _setting(0.0, lambda v: quantity(v, {"": 1.0}, "a rate"))


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, in the sections of the TOML files under `configs/`.

    Attributes:
        hosts: name of a host → its limits.
    """

    limits: Limits = field(default_factory=Limits)
    retry: Retry = field(default_factory=Retry)
    timeouts: Timeouts = field(default_factory=Timeouts)
    storage: Storage = field(default_factory=Storage)
    links: Links = field(default_factory=Links)
    network: Network = field(default_factory=Network)
    s3: S3 = field(default_factory=S3)
    notify: Notify = field(default_factory=Notify)
    hosts: Mapping[str, HostLimits] = field(default_factory=dict)

    @classmethod
    def load(cls, *layers: tuple[str, Layer]) -> Settings:
        """Return the defaults with `layers` applied in order; a later layer overrides an earlier one.

        Args:
            layers: pairs of the layer's name, which error messages state, and `{section: {key: value}}`.

        Raises:
            SettingsError: a section or a key is unknown, or a value is invalid. The message states the layer,
                the key, and the nearest known name.
        """
        made = cls()
        for name, layer in layers:
            for section, values in layer.items():
                made = made._with(name, section, values)
        return made

    def _with(self, layer: str, section: str, values: object) -> Settings:
        known = [f.name for f in fields(self)]
        if section not in known:
            raise SettingsError(f"{layer}: unknown section [{section}]{_nearest(section, known)}")
        if not isinstance(values, Mapping):
            raise SettingsError(f"{layer}: [{section}] must be a table of keys, not {values!r}")
        if section != "hosts":
            return replace(self, **{section: _changed(getattr(self, section), layer, section, values)})
        hosts = dict(self.hosts)
        for host, table in values.items():
            if not isinstance(table, Mapping):
                raise SettingsError(f'{layer}: [hosts."{host}"] must be a table of keys, not {table!r}')
            try:
                name = host_name(host)
            except ValueError as error:
                raise SettingsError(f'{layer}: [hosts."{host}"]: {error}') from None
            hosts[name] = _changed(hosts.get(name, HostLimits()), layer, f'hosts."{host}"', table)
        return replace(self, hosts=hosts)

    def items(self) -> list[tuple[str, str, Any]]:
        """Return every setting as (section, key, value), in the order of definition."""
        sections = [(f.name, getattr(self, f.name)) for f in fields(self) if f.name != "hosts"]
        sections += [(f'hosts."{host}"', limits) for host, limits in self.hosts.items()]
        return [
            (name, key.name, getattr(table, key.name)) for name, table in sections for key in fields(table)
        ]


def _changed(table: Any, layer: str, section: str, values: Mapping[str, Any]) -> Any:
    """Return `table`, one section of the settings, with `values` read and applied."""
    readers = {f.name: f.metadata["read"] for f in fields(table)}
    read: dict[str, Any] = {}
    for key, value in values.items():
        if key not in readers:
            near = _nearest(key, list(readers))
            raise SettingsError(f"{layer}: unknown key {section}.{key}{near}")
        try:
            read[key] = readers[key](value)
        except ValueError as error:
            raise SettingsError(f"{layer}: {section}.{key}: {error}") from None
    return replace(table, **read)


def _nearest(word: str, known: list[str]) -> str:
    near = nearest(word, known, 0.5)
    return f"; did you mean {near}?" if near else f"; known are {', '.join(known)}"
