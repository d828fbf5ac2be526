"""Completion in the shell: what a parameter takes, by the word that stands for its value in the help."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# The value of a parameter that is one of a few words: `wait|exit`, or `N|auto`.
_WORD: Final = r"[a-z]+"


class Completed(click.types.StringParamType):
    """Text that the shell completes.

    Args:
        metavar: What stands for the value: `FILE`, `DIR`, `SOURCE`, or words of which one is meant.
    """

    def __init__(self, metavar: str) -> None:
        self._kinds = [each.removesuffix("...") for each in metavar.split("|")]

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return what may follow `incomplete`.

        Where words match, the shell shows them alone; otherwise it completes the names of files.
        """
        from click.shell_completion import CompletionItem

        words = [kind for kind in self._kinds if re.fullmatch(_WORD, kind)]
        if "SOURCE" in self._kinds:
            return sources(incomplete)
        if "COMMAND" in self._kinds:
            from ..control.commands import USAGE

            words = list(USAGE)
        if found := [CompletionItem(word) for word in words if word.startswith(incomplete)]:
            return found
        if "DIR" in self._kinds:
            return [CompletionItem(incomplete, type="dir")]
        return [CompletionItem(incomplete, type="file")] if "FILE" in self._kinds else []


def sources(incomplete: str) -> list[CompletionItem]:
    """Return the files and then the datasets that a SOURCE may be.

    A shell lists either words or the names that it finds itself. If a dataset matches, the files that match
    are listed as words, too; otherwise the shell completes files, which can also go into folders.
    """
    from click.shell_completion import CompletionItem

    from ..datasets.catalogue import DATASETS

    names = [each.name for each in DATASETS] + ["all"]
    matching = [name for name in names if name.startswith(incomplete)]
    if not matching:
        return [CompletionItem(incomplete, type="file")]
    return [CompletionItem(each) for each in [*_entries(incomplete), *matching]]


def _entries(begin: str) -> list[str]:
    """Return the names in the current folder that begin with `begin`; one of a folder ends with a slash."""
    try:
        with os.scandir(Path.cwd()) as listed:
            found = [entry.name + "/" * entry.is_dir() for entry in listed]
    except OSError:
        return []
    shown = (name for name in found if name.startswith(begin) and not name.startswith("."))
    return sorted(name for name in shown if name.isprintable() and " " not in name)


def complete(command: click.Command) -> None:
    """Let the shell complete the parameters of a command that are plain text, and those of its commands."""
    for param in command.params:
        if param.type is click.STRING and param.metavar:
            param.type = Completed(param.metavar)
    if isinstance(command, click.Group):
        for each in command.commands.values():
            complete(each)
