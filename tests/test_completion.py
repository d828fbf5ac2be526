"""Tests of completion in the shell: by a real Bash on a terminal, with the script that the command prints."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
PROMPT = "READY> "
ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]|\x07")


class Bash:
    """An interactive Bash with the completion script of osp-fetch.

    Args:
        folder: Its current folder.
    """

    def __init__(self, folder: Path) -> None:
        environment = {
            **os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PS1": PROMPT, "TERM": "dumb",
            "HOME": str(folder), "INPUTRC": "/dev/null",
        }  # fmt: skip
        self._seen = b""  # what was printed and not waited for
        self._end, other = pty.openpty()
        termios.tcsetwinsize(other, (24, 200))
        self.process = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"], stdin=other, stdout=other, stderr=other, cwd=folder,
            env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(other)
        self.until(PROMPT)
        for setting in ("completion-query-items 0", "page-completions off", "show-all-if-ambiguous on"):
            self.do(f'bind "set {setting}"')
        self.do('eval "$(_OSP_FETCH_COMPLETE=bash_source osp-fetch)"')

    def send(self, text: str) -> None:
        os.write(self._end, text.encode())

    def do(self, line: str) -> None:
        """Run a line, and wait for the next prompt."""
        self.send(f"{line}\n")
        self.until("\n")
        self.until(PROMPT)

    def until(self, text: str) -> str:
        """Return what is printed before `text`."""
        wanted, patience = text.encode(), time.monotonic() + 30
        while wanted not in self._seen:
            assert select.select([self._end], [], [], patience - time.monotonic())[0], self._seen.decode()
            self._seen += ESCAPES.sub(b"", os.read(self._end, 1 << 16))
        found, _, self._seen = self._seen.partition(wanted)
        return found.decode()

    def completes(self, line: str, to: str) -> None:
        """Type a line and Tab, and wait until the shell has completed it."""
        self.send(f"{line}\t")
        self.until(to)
        self.forget()

    def lists(self, line: str) -> list[str]:
        """Type a line and Tab; return the candidates that the shell lists before it shows the line again."""
        self.send(f"{line}\t")
        self.until("\n")
        found = self.until(f"{PROMPT}{line}")
        self.forget()
        return found.split()

    def forget(self) -> None:
        """Empty the line."""
        self.send("\x15")
        self.do(":")

    def close(self) -> None:
        self.send("\x15exit\n")
        self.process.wait(10)
        os.close(self._end)


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bash]:
    """A shell in a folder with files, folders and a name that begins as a dataset does."""
    if shutil.which("bash") is None or not (BIN / "osp-fetch").exists():
        pytest.skip("Bash is not installed, or osp-fetch is not beside this Python")
    folder = tmp_path_factory.mktemp("shell")
    for name in ("pixels.csv", "links.tsv", "other list.txt"):
        (folder / name).touch()
    for name in ("data", "data/inner", "captions-old"):
        (folder / name).mkdir()
    (folder / "data" / "more.csv").touch()
    shell = Bash(folder)
    yield shell
    shell.close()


def test_sources_are_files_and_then_datasets(bash: Bash) -> None:
    found = bash.lists("osp-fetch get ")
    files = ["captions-old/", "data/", "links.tsv", "pixels.csv"]
    assert found[:4] == files
    assert {"sam-11m", "mixkit", "pexels", "all"} <= set(found[4:])


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("osp-fetch get mix", "mixkit "),
        ("osp-fetch plan sam", "sam-11m "),
        ("osp-fetch get link", "links.tsv "),
        ("osp-fetch get data/mo", "data/more.csv "),  # no dataset matches: the shell goes into folders
        ("osp-fetch get mixkit -o dat", "data/"),
        ("osp-fetch status da", "data/"),
        ("osp-fetch doctor data/in", "data/inner/"),
        ("osp-fetch get sam-11m --links li", "links.tsv "),
        ("osp-fetch get --digests mix", "mixkit "),
        ("osp-fetch get x --on-expired w", "wait "),
        ("osp-fetch get x --names ha", "hash "),
        ("osp-fetch get x --engine f", "folder "),
        ("osp-fetch plan x --engine r", "ray "),
        ("osp-fetch get x -j a", "auto "),
        ("osp-fetch get x --max-dur", "--max-duration "),
        ("osp-fetch doc", "doctor "),
        ("osp-fetch config sh", "show "),
        ("osp-fetch config show -c lin", "links.tsv "),
        ("osp-fetch ctl data retr", "retry-failed "),
    ],
)
def test_a_word_is_completed(bash: Bash, line: str, completed: str) -> None:
    bash.completes(line, completed)


def test_files_are_no_folders_of_output(bash: Bash) -> None:
    assert bash.lists("osp-fetch get mixkit -o ") == ["captions-old/", "data/"]


@pytest.mark.parametrize(
    ("shell", "said"), [("zsh", "compdef _osp_fetch_completion osp-fetch"), ("fish", "complete")]
)
def test_the_scripts_of_other_shells_are_printed(shell: str, said: str) -> None:
    environment = {**os.environ, "_OSP_FETCH_COMPLETE": f"{shell}_source"}
    done = subprocess.run([BIN / "osp-fetch"], env=environment, capture_output=True, text=True, check=True)
    assert said in done.stdout
