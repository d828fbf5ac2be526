"""The profiles of hosts, in one JSON file of the user's: `host:port` → what was learnt."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Final

from ..model.errors import SettingsError
from ..model.profile import Profile
from .folder.disk import replace_text

_VERSION: Final = 1


def read(place: Path) -> dict[str, Profile]:
    """What was saved; empty where nothing was. Raises SettingsError."""
    try:
        document = json.loads(place.read_text(encoding="utf-8"))
        if document["version"] != _VERSION:
            raise ValueError(f"its version is {document['version']}")
        return {host: Profile(**values) for host, values in document["hosts"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"{place}: these are no profiles of ours ({error}); remove the file, and bench again"
        ) from None


def save(place: Path, learnt: Mapping[str, Profile]) -> None:
    """Add `learnt` to what is saved, the newer of two in place of the older. Raises SettingsError."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.with_name(f".{place.name}.lock").open("a") as lock:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)  # another bench that saves now would lose ours, or we its
            hosts = {host: asdict(profile) for host, profile in (read(place) | dict(learnt)).items()}
            replace_text(place, json.dumps({"version": _VERSION, "hosts": hosts}, indent=2) + "\n")
    except OSError as error:
        raise SettingsError(f"{place}: the profile cannot be saved ({error.strerror})") from None
