"""A notice, and what notices are about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from typing import Any, Final

from ..model.dataclasses import dataclass
from ..model.errors import SettingsError
from ..model.report import JSON_VERSION


class Kind(StrEnum):
    """What a notice is about."""

    BEGUN = "begun"
    LINKS_DYING = "links dying"
    LINKS_DEAD = "links dead"
    LINKS_RENEWED = "links renewed"
    LINKS_COMMAND_FAILED = "links command failed"
    DISK_LOW = "disk low"
    DISK_FULL = "disk full"
    HOST_DOWN = "host down"
    HOST_BACK = "host back"
    THROTTLED = "throttled"
    STALLED = "stalled"
    MOVING = "moving"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"
    TEST = "test"


MEANINGS: Final[Mapping[Kind, str]] = {
    Kind.BEGUN: "The run has begun.",
    Kind.LINKS_DYING: "At this pace, the links expire before everything is fetched.",
    Kind.LINKS_DEAD: "Links have expired, and files wait for fresh ones.",
    Kind.LINKS_RENEWED: "Files that waited have fresh links.",
    Kind.LINKS_COMMAND_FAILED: "The command for fresh links has failed.",
    Kind.DISK_LOW: "What is left does not fit on the disk.",
    Kind.DISK_FULL: "The disk is full, and the run waits for space.",
    Kind.HOST_DOWN: "A host has not answered for long.",
    Kind.HOST_BACK: "A host that was reported as down answers again.",
    Kind.THROTTLED: "A server asks for long or many pauses.",
    Kind.STALLED: "No byte has come and no file has ended for long.",
    Kind.MOVING: "A stalled run goes on.",
    Kind.DONE: "Every file is present and verified.",
    Kind.STOPPED: "The run was stopped early.",
    Kind.FAILED: "The run has ended, and files are missing; or it could not go on.",
    Kind.TEST: "A test of the delivery.",
}
_WARNING: Final = "warning"
_LEVELS: Final = {
    Kind.LINKS_RENEWED: "success",
    Kind.HOST_BACK: "success",
    Kind.MOVING: "success",
    Kind.DONE: "success",
    Kind.BEGUN: "info",
    Kind.TEST: "info",
    Kind.STOPPED: "info",
    Kind.FAILED: "failure",
}


def wanted_kinds(kinds: str) -> frozenset[Kind]:
    """Return the kinds that the setting `notify.kinds` names.

    Raises:
        SettingsError: it names a kind that does not exist.
    """
    if kinds == "all":
        return frozenset(Kind)
    if kinds == "problems":
        return frozenset(kind for kind in Kind if _LEVELS.get(kind, _WARNING) in (_WARNING, "failure"))
    names = [name.strip() for name in kinds.split(",")]
    known = {kind.value: kind for kind in Kind}
    for name in names:
        if name not in known:
            raise SettingsError(f'notify.kinds: {name!r} is none of "all", "problems", {", ".join(known)}')
    return frozenset(known[name] for name in names)


@dataclass(frozen=True, slots=True)
class Notice:
    """A message to a person.

    Attributes:
        kind: what it is about.
        time: Unix seconds.
        title: one line.
        text: one or more sentences, without secrets and control characters.
        place: the output folder or bucket.
        machine: name of the machine.
        facts: the same as numbers, by name.
    """

    kind: Kind
    time: float
    title: str
    text: str
    place: str
    machine: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def level(self) -> str:
        """`info`, `success`, `warning` or `failure`, as apprise names them."""
        return _LEVELS.get(self.kind, _WARNING)

    def row(self) -> dict[str, Any]:
        """Return the notice as plain values, for the command of `--on-event`."""
        return {
            "version": JSON_VERSION,
            "event": self.kind.value,
            "level": self.level,
            "time": round(self.time, 1),
            "title": self.title,
            "text": self.text,
            "place": self.place,
            "machine": self.machine,
            "facts": dict(self.facts),
        }


def trial_notice(place: str, machine: str, now: float) -> Notice:
    """Return the notice of `osp-fetch notify --test`."""
    text = f"A test from {machine}. Notices of a run arrive here."
    return Notice(Kind.TEST, now, "osp-fetch: a test", text, place, machine)
