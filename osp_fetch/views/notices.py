"""Notices: what is worth a message to a person who does not watch the run.

Nothing here does I/O. `Notices` gets the events of a run, and every few seconds a `Look` at its state. It
returns the notices to deliver. Each matter is reported once, each kind at most once in `notify.every`
seconds. A run has at most `notify.most` notices beside those of its begin and end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from ..model import events, urls
from ..model.dataclasses import dataclass
from ..model.report import Report, Status
from ..model.settings import Notify
from ..model.text import printable
from ..model.urls import redact
from . import formatting
from .notice import Kind, Notice, wanted_kinds
from .pace import Pace

# Part of the bytes to fetch by which an estimate may be wrong without a notice.
_MARGIN: Final = 0.05
# Seconds for which files must wait for fresh links: a fresh link file that lies ready is read within one.
_SETTLED: Final = 30.0
# Characters of one text. Services cut longer ones, and some refuse them.
_LONGEST: Final = 1800
# Hosts that are remembered, so that memory does not grow with the manifest.
_HOSTS_KEPT: Final = 10_000
_NAMED: Final = 3  # hosts that one text names
_OF_HOSTS: Final = frozenset({Kind.THROTTLED, Kind.HOST_DOWN, Kind.HOST_BACK})


@dataclass(frozen=True, slots=True)
class Look:
    """The state of a run at one moment.

    Attributes:
        now: seconds of a clock that no change of the time moves.
        received: bytes received in this run.
        ended: rows that have ended.
        left: bytes still to fetch; None while that cannot be estimated.
        known: how well: "" exactly, "About" by the mean of the sizes that are known, "At least" while not
            all rows are read.
        expires: when the first link expires in Unix seconds, None if unknown.
        room: bytes that may still be written to the disk, None if unknown.
        wall: Unix seconds; None if `now` is.
        expiring: bytes to fetch from links that expire; None if that is not known.
    """

    now: float
    received: int = 0
    ended: int = 0
    left: int | None = None
    known: str = ""
    expires: float | None = None
    room: int | None = None
    wall: float | None = None
    expiring: int | None = None


class Gate:
    """Admits at most one notice of each kind in `every` seconds, and `most` in all.

    The last fifth of them is for matters of the whole run: hosts that come and go do not use it up.

    Args:
        every: seconds.
        most: largest number of notices.
    """

    def __init__(self, every: float, most: int) -> None:
        self._every, self.left, self._reserved = every, most, most // 5
        self._last: dict[Kind, float] = {}

    def admits(self, kind: Kind, now: float) -> bool:
        """Return whether a notice of `kind` may be sent now, and count it if so."""
        last = self._last.get(kind)
        reserved = self._reserved if kind in _OF_HOSTS else 0
        if self.left <= reserved or (last is not None and now - last < self._every):
            return False
        self._last[kind] = now
        self.left -= 1
        return True


class Notices:
    """Decides which notices one run sends.

    Args:
        limits: the settings `[notify]`.
        place: the output folder or bucket, as the user named it.
        machine: name of the machine.

    Raises:
        SettingsError: `notify.kinds` names a kind that does not exist.
    """

    def __init__(self, limits: Notify, place: str, machine: str) -> None:
        self._limits, self._place, self._machine = limits, place, machine
        self._wanted = wanted_kinds(limits.kinds)
        self._gate = Gate(limits.every, limits.most)
        self._pace = Pace(limits.pace)
        self._parked, self._parked_since = 0, 0.0
        self._told_expiry: float | None = None
        self._sent: set[Kind] = set()  # matters that go on now and were reported
        self._down: dict[str, tuple[float, str]] = {}  # host → since when, and why
        self._sent_down: set[str] = set()
        self._pauses: dict[str, tuple[float, float]] = {}  # host → begin of a window, and seconds of pauses
        self._throttled: set[str] = set()  # hosts that were reported, and have not been quiet since
        self._is_paused = False
        self._ahead = 0.0  # Unix seconds at the last look, less those of the clock that nothing moves
        self._moved: tuple[int, int] | None = None
        self._moved_at = 0.0

    def set_wall(self, wall: float, now: float) -> None:
        """State the time: Unix seconds, and those of the clock of `Look.now`."""
        self._ahead = wall - now

    # ---- events

    def event(self, event: events.Event, now: float) -> list[Notice]:
        """Return the notices that an event causes at once.

        Args:
            event: the event.
            now: seconds of the clock of `Look.now`.
        """
        match event:
            case events.Steered():
                self._steered(event, now)
            case events.RunStarted():
                begun = self._notice(Kind.BEGUN, now, "begun", f"A run has begun in {self._place}.")
                return [begun] if Kind.BEGUN in self._wanted else []
            case events.Parked(files):
                self._parked_since = self._parked_since if self._parked else now
                self._parked = files
            case events.LinksRenewed(files):
                return self._renewed(files, now)
            case events.LinksCommandFailed(why):
                return self._notice_of(
                    Kind.LINKS_COMMAND_FAILED, now, "the command for fresh links failed", why
                )
            case events.DiskWaiting(why):
                self._sent.add(Kind.DISK_FULL)
                return self._notice_of(
                    Kind.DISK_FULL, now, "the disk is full", f"{why}. The run waits for space."
                )
            case events.Cooling(host, seconds, why):
                return self._cooling(host, seconds, why, now)
            case events.HostDown(host, _, why, True) if len(self._down) < _HOSTS_KEPT:
                self._down.setdefault(host, (now, why))
            case events.HostBack(host):
                return self._back(host, now)
        return []

    def _steered(self, event: events.Steered, now: float) -> None:
        """Begin to judge the run anew when it goes on after a pause: a paused one has not stalled."""
        if self._is_paused and not event.paused:
            self._pace, self._moved_at = Pace(self._limits.pace), now
        self._is_paused = event.paused

    def _renewed(self, files: int, now: float) -> list[Notice]:
        self._parked, self._parked_since = max(0, self._parked - files), now
        if Kind.LINKS_DEAD not in self._sent:
            return []
        self._sent.discard(Kind.LINKS_DEAD)
        text = f"{formatting.count(files, 'file')} that waited for fresh links continue at the same byte."
        return self._notice_of(Kind.LINKS_RENEWED, now, "fresh links are in use", text, files=files)

    def _cooling(self, host: str, seconds: float, why: str, now: float) -> list[Notice]:
        begun, total = self._pauses.get(host, (now, 0.0))
        if now - begun > self._limits.pace:
            if total < self._limits.pause or now - begun > 2 * self._limits.pace:
                self._throttled.discard(host)
            begun, total = now, 0.0
        before, total = total, total + seconds
        if host in self._pauses or len(self._pauses) < _HOSTS_KEPT:
            self._pauses[host] = begun, total
        if not before < self._limits.pause <= total or host in self._throttled:
            return []
        text = f"{host} asks for pauses, {formatting.duration(total)} in all: {why}. They are obeyed."
        made = self._notice_of(
            Kind.THROTTLED, now, f"{_name(host)} slows the run down", text, host=host, seconds=round(total)
        )
        self._throttled |= {host} if made else set()
        return made

    def _back(self, host: str, now: float) -> list[Notice]:
        since, _ = self._down.pop(host, (now, ""))
        if host not in self._sent_down:
            return []
        self._sent_down.discard(host)
        text = f"{host} answers again after {formatting.duration(now - since)}. Its files continue."
        return self._notice_of(Kind.HOST_BACK, now, f"{_name(host)} answers again", text, hosts=[host])

    # ---- looks

    def look(self, look: Look) -> list[Notice]:
        """Return the notices that the state of the run causes."""
        self.set_wall(look.now if look.wall is None else look.wall, look.now)
        if self._is_paused:
            return [*self._dead(look.now), *self._low(look)]
        self._pace.add(look.now, look.received)
        return [
            *self._dying(look), *self._dead(look.now), *self._low(look), *self._silent(look.now),
            *self._standstill(look),
        ]  # fmt: skip

    def _dying(self, look: Look) -> list[Notice]:
        rate, now = self._pace.rate(), look.now + self._ahead
        if rate is None or not look.left or look.expires is None or look.expires <= now:
            return []
        left = look.left if look.expiring is None else min(look.left, look.expiring)
        short = left - rate * (look.expires - now)
        if short <= left * _MARGIN or self._told_expiry == look.expires:
            return []
        size, when = formatting.size(short), formatting.moment(look.expires)
        known = f"{look.known} " if look.known else ""
        amount, time_left = formatting.size(left), formatting.duration(look.expires - now)
        text = (
            f"{known}{size} of the {amount} that are left will not be here when the links expire at {when}, "
            f"in {time_left}: the rate of the last {formatting.duration(self._limits.pace)} is "
            f"{formatting.size(rate)}/s. Get a fresh link file, and put it in place of the old one; the run "
            "continues with it."
        )
        made = self._notice_of(
            Kind.LINKS_DYING, look.now, f"{size} will not make it before {when}", text, short=round(short),
            left=left, bytes_per_second=round(rate), expires=look.expires,
        )  # fmt: skip
        if made:
            self._told_expiry = look.expires
        return made

    def _dead(self, now: float) -> list[Notice]:
        if not self._parked or now - self._parked_since < _SETTLED or Kind.LINKS_DEAD in self._sent:
            return []
        text = (
            f"{formatting.count(self._parked, 'file')} waiting for fresh links. Put a fresh link file in "
            "place of the old one; what is held is kept."
        )
        made = self._notice_of(Kind.LINKS_DEAD, now, "links have expired", text, files=self._parked)
        self._sent |= {Kind.LINKS_DEAD} if made else set()
        return made

    def _low(self, look: Look) -> list[Notice]:
        if look.room is None or not look.left:
            return []
        if look.left <= look.room:
            self._sent.discard(Kind.DISK_LOW)
            return []
        if look.left <= look.room * (1 + _MARGIN) or Kind.DISK_LOW in self._sent:
            return []
        text = (
            f"{formatting.size(look.left)} are left to fetch, and the disk has room for "
            f"{formatting.size(max(0, look.room))} beside storage.min_free. Free some space; when the disk "
            "is full, the run waits for it."
        )
        title = "the disk is too small for what is left"
        made = self._notice_of(Kind.DISK_LOW, look.now, title, text, left=look.left, room=look.room)
        self._sent |= {Kind.DISK_LOW} if made else set()
        return made

    def _silent(self, now: float) -> list[Notice]:
        new = [
            host
            for host, (since, _) in self._down.items()
            if now - since >= self._limits.host_down and host not in self._sent_down
        ]
        if not new:
            return []
        text = (
            f"{_listed(new)} {'has' if len(new) == 1 else 'have'} not answered for "
            f"{formatting.duration(now - self._down[new[0]][0])} ({self._down[new[0]][1] or 'no answer'}). "
            "The files of other hosts are fetched; these wait."
        )
        made = self._notice_of(Kind.HOST_DOWN, now, f"{_listed(new)} down", text, hosts=new[:100])
        self._sent_down |= set(new) if made else set()
        return made

    def _standstill(self, look: Look) -> list[Notice]:
        moved = look.received, look.ended
        if self._moved is None:
            self._moved, self._moved_at = moved, look.now
        if moved != self._moved:
            self._moved, self._moved_at = moved, look.now
            self._sent.discard(Kind.DISK_FULL)
            if Kind.STALLED not in self._sent:
                return []
            self._sent.discard(Kind.STALLED)
            return self._notice_of(Kind.MOVING, look.now, "the run goes on", "Bytes arrive again.")
        waits = {Kind.LINKS_DEAD, Kind.DISK_FULL, Kind.STALLED} & self._sent
        still = look.now - self._moved_at
        if waits or still < self._limits.stalled:
            return []
        text = (
            f"No byte has come and no file has ended for {formatting.duration(still)}. events.jsonl in "
            ".osp-fetch says what was tried."
        )
        made = self._notice_of(Kind.STALLED, look.now, "the run has stalled", text, seconds=round(still))
        self._sent |= {Kind.STALLED} if made else set()
        return made

    # ---- end

    def ended(self, report: Report | None, error: str | None, code: int, now: float) -> list[Notice]:
        """Return the notice of the end of a run; neither `every` nor `most` hold for it.

        Args:
            report: the report, None if the run raised an error.
            error: the error that ended it, in words.
            code: exit code of the command.
            now: Unix seconds.
        """
        notice = self._end(report, error, code, now)
        return [notice] if notice.kind in self._wanted else []

    def _end(self, report: Report | None, error: str | None, code: int, now: float) -> Notice:
        if report is None:
            text = error or "The run was cancelled."
            return self._notice(Kind.FAILED, now, "the run has failed", text, exit_code=code)
        facts = {k: v for k, v in report.row().items() if k not in ("failures", "version", "notes")}
        lines = [formatting.summary(report), *formatting.advice(report)[:10]]
        missing = report.counts[Status.FAILED] + report.counts[Status.PARKED] + (report.elsewhere or 0)
        if report.stopped:
            kind, title = Kind.STOPPED, f"stopped by {report.stopped}"
        elif missing:
            kind, title = Kind.FAILED, f"{formatting.count(missing, 'file')} missing at the end"
        elif code:
            kind, title = Kind.FAILED, "all files are here, but not all is well"
            lines.append(f"Exit code {code}: an archive may be broken, or members missing.")
        else:
            kind, title = Kind.DONE, "done"
        return self._notice(kind, now, title, "\n".join(lines), **facts, exit_code=code)

    def _notice_of(self, kind: Kind, now: float, title: str, text: str, **facts: Any) -> list[Notice]:
        """Return the notice in a list, or an empty list if it is held back."""
        if kind not in self._wanted or not self._gate.admits(kind, now):
            return []
        if self._gate.left == 0:
            text += " This run tells nothing more before its end (notify.most)."
        return [self._notice(kind, now, title, text, **facts)]

    def _notice(self, kind: Kind, now: float, title: str, text: str, **facts: Any) -> Notice:
        lines = "\n".join(printable(redact(line)) for line in text.split("\n"))
        if len(lines) > _LONGEST:
            lines = lines[: _LONGEST - 1] + "…"
        title = f"osp-fetch: {printable(redact(title))[:200]}"
        place, machine = printable(redact(self._place)), printable(self._machine)
        return Notice(kind, now + self._ahead, title, lines, place, machine, facts)


def _name(host: str) -> str:
    return urls.name_of(host) or host


def _listed(hosts: Iterable[str]) -> str:
    """Return the names of some hosts, such as `a, b, c and 7 more`."""
    names = [_name(host) for host in hosts]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
