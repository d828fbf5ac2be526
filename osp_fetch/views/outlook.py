"""Outlook: will the run make it? One sentence from a few numbers, without I/O and without a clock."""

from __future__ import annotations

from typing import Literal

from ..model.dataclasses import dataclass
from . import formatting

Level = Literal["good", "unknown", "warning", "bad"]


@dataclass(frozen=True, slots=True)
class Pace:
    """How a run stands.

    Attributes:
        now: Current time in Unix seconds.
        left: Bytes that are still to come; None if that is not known.
        exact: Whether `left` is exact and not estimated.
        rate: Bytes per second that are kept.
        files_left: Files that have not ended.
        expires: When the first link expires, in Unix seconds; None if no link states it.
        free: Bytes that may still be written to the disk; None if that is not known.
    """

    now: float
    left: int | None
    exact: bool
    rate: float
    files_left: int
    expires: float | None = None
    free: int | None = None


@dataclass(frozen=True, slots=True)
class Outlook:
    """A sentence about the end of a run, and how good it is.

    Attributes:
        level: "bad" if the run will not make it as it is.
        text: The sentence.
        ends: When the run ends at this pace, in Unix seconds; None if that cannot be estimated.
    """

    level: Level
    text: str
    ends: float | None = None


def outlook(pace: Pace) -> Outlook:
    """Return whether the run will make it: before its links die, and on this disk."""
    if pace.left is None or (pace.left == 0 and pace.files_left):
        return Outlook("unknown", "The sizes of the files are not known yet.")
    if pace.free is not None and pace.left > pace.free:
        return Outlook(
            "bad",
            f"The disk is too small: {_about(pace)}{formatting.size(pace.left)} are to come, and "
            f"{formatting.size(max(0, pace.free))} are free.",
        )
    if pace.left == 0:
        return Outlook("good", "Every byte is here.", pace.now)
    if pace.rate <= 0:
        return Outlook("unknown", "No bytes are coming, so that the end cannot be estimated.")
    ends = pace.now + pace.left / pace.rate
    return _before_expiry(pace, ends) if pace.expires is not None else _at(pace, ends)


def _at(pace: Pace, ends: float) -> Outlook:
    return Outlook("good", f"At this pace it ends {_about(pace)}{formatting.moment(ends)}.", ends)


def _before_expiry(pace: Pace, ends: float) -> Outlook:
    """Compare the end with the expiry of the first link."""
    expires = pace.expires or 0.0
    if expires <= pace.now:
        return Outlook("warning", f"The {formatting.expiry(expires, pace.now)}.", ends)
    if ends > expires:
        late = round((ends - expires) * pace.rate)
        return Outlook(
            "bad",
            f"{formatting.size(late)} will not make it before the first links expire "
            f"({formatting.moment(expires)}): get a fresh link file.",
            ends,
        )
    spare = formatting.duration(expires - ends)
    text = f"At this pace it ends {_about(pace)}{formatting.moment(ends)}, {spare} before links expire."
    return Outlook("warning" if expires - ends < (ends - pace.now) / 10 else "good", text, ends)


def _about(pace: Pace) -> str:
    return "" if pace.exact else "about "
