"""Outage: how long a host that does not answer is probed. No I/O and no clock; times are in seconds."""

from __future__ import annotations

from enum import Enum
from typing import Final

from ..model.errors import HostDownError, Unreachable
from ..model.settings import Retry

# Attempts at a host whose failure is definite, before its files are set back to the end of the run.
_TRIES: Final = 3
# Fraction of `retry.longest` for which a host that never answered is probed: before its files are set back,
# and again at the end of the run.
_FRACTION: Final = 8
# Pauses of a definite failure, in multiples of `retry.initial`: between its attempts, and before the last.
_DEFINITE_PAUSE, _LAST_PAUSE = 2, 8


class Stage(Enum):
    """What happens with the files of a host that does not answer."""

    PROBED = "probed"  # one file at a time probes the host
    SET_BACK = "set back"  # they wait for the end of the run
    LAST = "last"  # the run is at its end, and the host is probed again
    OVER = "over"  # they fail


class Outage:
    """The time in which one host does not answer.

    A host that has answered before is probed for `retry.outage` seconds: it restarts, or the network is
    interrupted. A host that never answered most likely does not exist. After a few attempts its files are
    set back to the end of the run, where it gets one more chance.

    Args:
        settings: Waiting times.
        error: The error with which it began.
        since: Time at which the attempt began that failed first.
        now: Current time.

    Attributes:
        stage: What happens with the files.
        error: The error of the last attempt.
        due: Time of the next probe. It has a meaning in the stages PROBED and LAST.
    """

    def __init__(self, settings: Retry, error: HostDownError, since: float, now: float) -> None:
        self._settings = settings
        self.stage = Stage.PROBED
        self.error = error
        self.due = self._failed_at = now
        self._since = since
        self._tries = 0
        self.failed(error, now)

    def failed(self, error: HostDownError, now: float, *, tried: bool = False) -> None:
        """Record an attempt at the host that failed.

        Args:
            error: The error.
            now: Current time.
            tried: Whether a connection for each file that waits got no answer. If the host drops them without
                a reply, it is most likely about these files.
        """
        self.error, self._failed_at = error, now
        self._tries += 1
        if error.why is Unreachable.CERTIFICATE or (error.why.is_definite and not error.heard):
            self._failed_definitely()
        elif error.heard:
            is_about_files = tried and error.why is Unreachable.DROPPED
            patience = self._settings.longest if is_about_files else self._settings.outage
            over = now - self._since > patience and self._tries >= self._settings.attempts
            self._go_on(Stage.OVER if over else None)
        else:
            next_stage = Stage.OVER if self.stage is Stage.LAST else Stage.SET_BACK
            is_long = now - self._since > self._settings.longest / _FRACTION
            self._go_on(next_stage if is_long else None)

    def _failed_definitely(self) -> None:
        if self.stage is Stage.LAST:
            self._go_on(Stage.OVER)
        else:
            self._go_on(Stage.SET_BACK if self._tries >= _TRIES else None, _DEFINITE_PAUSE)

    def _go_on(self, stage: Stage | None, factor: float = 1.0) -> None:
        """Enter `stage`, or probe the host again after a pause that is twice as long as the last one."""
        if stage is not None:
            self.stage = stage
            return
        pause = factor * self._settings.initial * 2.0 ** min(self._tries - 1, 30)
        longest = self._settings.longest
        if self.error.why is Unreachable.DROPPED:
            longest /= _FRACTION  # the host is there: the next file may be answered
        self.due = self._failed_at + min(longest, pause)

    def revive(self, now: float) -> None:
        """Begin the last chance of a host that was set back.

        Args:
            now: Current time.
        """
        self.stage, self._tries = Stage.LAST, 0
        pause = min(self._settings.longest, _LAST_PAUSE * self._settings.initial)
        self.due = max(now, self._failed_at + pause) if self.error.why.is_definite else now
        self._since = self.due
