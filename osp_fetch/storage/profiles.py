"""Read and write the profiles of hosts, in one JSON file: `host:port` → `Profile`."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from ..model.errors import SettingsError
from ..model.profile import Profile
from .folder.disk import replace_text

# Format version of the file.
_VERSION: Final = 1


def read(place: Path) -> dict[str, Profile]:
    """Return the saved profiles by `host:port`; empty if the file does not exist.

    Args:
        place: the JSON file.

    Raises:
        SettingsError: the file cannot be read, or is not a valid profile file.
    """
    try:
        document = json.loads(place.read_text(encoding="utf-8"))
        if document["version"] != _VERSION:
            raise ValueError(f"its version is {document['version']}")
        return {host: Profile(**values) for host, values in document["hosts"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"{place}: not a valid profile file ({error}); remove it, and run `osp-fetch bench` again"
        ) from None


def save_widths(place: Path, widths: Mapping[str, int]) -> None:
    """Add the widest ranges that hosts take to their profiles.

    Args:
        place: the JSON file; it is created if it does not exist.
        widths: bytes by `host:port`.

    Raises:
        SettingsError: as `save`.
    """
    known = read(place)
    unmeasured = Profile(connections=1, part_size=1, bytes_per_second=0, measured=time.time())
    save(place, {h: replace(known.get(h, unmeasured), widest=width) for h, width in widths.items()})


def save(place: Path, learnt: Mapping[str, Profile]) -> None:
    """Add `learnt` to the saved profiles. A profile replaces the saved one of the same host.

    Args:
        place: the JSON file; it is created if it does not exist.
        learnt: new profiles by `host:port`.

    Raises:
        SettingsError: the file cannot be read or written, or is not a valid profile file.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        # two processes that save at the same time would lose the profiles of one of them
        with place.with_name(f".{place.name}.lock").open("a") as lock:
            with suppress(OSError):  # the file system does not support locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            hosts = {host: asdict(profile) for host, profile in (read(place) | dict(learnt)).items()}
            replace_text(place, json.dumps({"version": _VERSION, "hosts": hosts}, indent=2) + "\n")
    except OSError as error:
        raise SettingsError(f"{place}: the profile cannot be saved ({error.strerror})") from None
