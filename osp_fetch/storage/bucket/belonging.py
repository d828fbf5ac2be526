"""Which store a local state folder belongs to: the state of one says nothing about the objects of another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from ...model.errors import SettingsError, StorageError
from ...s3.address import BucketAddress

_NOTE: Final = "bucket.json"  # file of the state folder


def note_place(state: Path, address: BucketAddress, endpoint: str) -> None:
    """Note the store to which a state folder belongs; check it if that was noted before.

    Args:
        state: the state folder of a run or shard.
        address: bucket and prefix.
        endpoint: the URL of the store.

    Raises:
        SettingsError: it belongs to another store, bucket or prefix.
        StorageError: it cannot be read or written.
    """
    place = state / _NOTE
    if place.exists():
        check_place(state, address, endpoint)
        return
    try:
        place.write_text(json.dumps(_noted(address, endpoint)))
    except OSError as error:
        raise _unusable(place, error) from None


def check_place(state: Path, address: BucketAddress, endpoint: str) -> None:
    """Check that a state folder belongs to a store, where that was noted.

    Args, Raises: as for `note_place`.
    """
    place = state / _NOTE
    try:
        noted = json.loads(place.read_text())
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise _unusable(place, error) from None
    if noted != _noted(address, endpoint):
        raise SettingsError(
            f"{state.parent} holds the state of {noted.get('destination')} at {noted.get('endpoint')}, not "
            f"of {address} at {endpoint}; give the endpoint of that store, or another folder with --state"
        )


def _noted(address: BucketAddress, endpoint: str) -> dict[str, str]:
    return {"destination": str(address), "endpoint": endpoint}


def _unusable(place: Path, error: Exception) -> StorageError:
    return StorageError(f"{place} cannot be used: {error}; give another folder with --state")
