"""What watches a run of `get` from afar: the notifier, as its flags ask."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from ..model.errors import FetchError, SettingsError
from ..model.settings import Settings
from ..storage.bucket.address import is_bucket
from . import exits
from .flags import PREFIX, Line

if TYPE_CHECKING:
    from ..model.events import Event
    from ..model.report import Report
    from ..options import PlainOptions
    from ..views.board import Board
    from ..views.delivery import Target
    from ..views.notify import Notifier

F = TypeVar("F", bound=Callable[..., Any])

_CHECK: Final = 20.0  # seconds for the check of one address


def notify_flags(command: F) -> F:
    """Add the flags that name where notices go."""
    for option in (
        click.option(
            "--on-event",
            type=Line(),
            multiple=True,
            envvar=PREFIX + "ON_EVENT",
            metavar="CMD",
            help="Run CMD with a JSON object on stdin for what is worth a message (repeatable).",
        ),
        click.option(
            "--notify",
            multiple=True,
            envvar=PREFIX + "NOTIFY",
            metavar="URL|@FILE",
            help="Send messages to an address of apprise, or to those in FILE (repeatable).",
        ),
    ):
        command = option(command)
    return command


def watch_flags(command: F) -> F:
    """Add the flags of `get` for those who do not sit at its terminal."""
    return notify_flags(command)


class Watching:
    """The views for people elsewhere, as a context around a run. Also an observer that feeds them.

    Args:
        flags: Flags by parameter name.
        made: Options of the library.
        board: The state of the run.

    Attributes:
        is_wanted: Whether there is any such view.
        report: The report, to be set when the run has ended.
        code: The exit code, to be set at the end of the context.
    """

    def __init__(self, flags: dict[str, Any], made: PlainOptions, board: Board) -> None:
        self.board = board
        self.report: Report | None = None
        self.code = exits.SOME_FAILED
        self._flags, self._made = flags, made
        output = str(flags["output"])
        self._place = output if is_bucket(output) else str(Path(output).absolute())
        self._notifier: Notifier | None = None
        self._stack = AsyncExitStack()

    @property
    def is_wanted(self) -> bool:
        return self._notifier is not None

    def __call__(self, event: Event) -> None:
        """Pass one event to the board, and then to the views, which read it."""
        self.board(event)
        if self._notifier is not None:
            self._notifier(event)

    async def __aenter__(self) -> Watching:
        targets = await asyncio.to_thread(targets_of, self._flags)
        if targets:
            await self._notify(targets)
        return self

    async def _notify(self, targets: Sequence[Target]) -> None:
        from ..views.delivery import Channel
        from ..views.fanout import Ticking
        from ..views.free_space import FreeSpace
        from ..views.notices import Notices
        from ..views.notify import Notifier

        settings: Settings = self._made["settings"]
        room: Callable[[], int | None] = lambda: None  # noqa: E731
        if not is_bucket(self._place):
            space = self._stack.enter_context(FreeSpace(Path(self._place)))
            room = space.beside(settings.storage.min_free)
        notices = Notices(settings.notify, self._place, socket.gethostname())
        channels = [Channel(target, settings.notify.timeout) for target in targets]
        self._notifier = Notifier(self.board, notices, channels, room)
        await self._stack.enter_async_context(Ticking(self._notifier, at_end=False))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        await self._stack.aclose()
        if self._notifier is None:
            return
        report = self.report if error is None else None
        if isinstance(error, FetchError):
            self.code = exits.code_of(error)
        said = str(error) if isinstance(error, FetchError) else kind.__name__ if kind else None
        self._notifier.ended(report, said, self.code)
        for note in await asyncio.to_thread(self._notifier.close):
            click.echo(note, err=True)


def targets_of(flags: dict[str, Any]) -> list[Target]:
    """Return where notices go.

    Args:
        flags: Flags by parameter name.

    Raises:
        SettingsError: apprise is not installed, does not know an address, or a file cannot be read.
    """
    if not (flags["notify"] or flags["on_event"]):
        return []
    from ..views.delivery import Target, deliver

    urls = [Target.of_url(url) for text in flags["notify"] for url in _urls(text)]
    if urls and find_spec("apprise") is None:
        raise SettingsError("--notify needs apprise, which is not installed: pip install 'osp-fetch[notify]'")
    for number, target in enumerate(urls, 1):
        if why := deliver(target, None, _CHECK):
            raise SettingsError(
                f"--notify: address {number} ({target.name}) is not known to apprise ({why}); its "
                "documentation lists the forms, such as ntfys://ntfy.sh/TOPIC or mailto://USER:PASSWORD@HOST"
            )
    return [*urls, *(Target.of_command(command) for command in flags["on_event"])]


def _urls(text: str) -> list[str]:
    """Return the addresses that a value of --notify names: itself, or the lines of the file after an @."""
    if not text.startswith("@"):
        return [text.strip()]
    try:
        lines = Path(text[1:]).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--notify: {text[1:]} cannot be read ({error})") from None
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
