"""Survey: the measurement of a host, together with the network alone, the disk and the digests."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Final

from ..options import PlainOptions
from .disk import DiskRates, disk_rates
from .host_files import HostFiles
from .measure import Bench, measure, measure_network
from .pipeline import scratch_folder
from .session import Tell

# Share of the time and bytes allowed that the network alone may use.
_NETWORK: Final = 0.25
# Share of the time allowed that the disk may use, and the most seconds.
_DISK: Final = 0.05
_DISK_SECONDS: Final = 6.0


async def survey(
    host: HostFiles,
    options: PlainOptions,
    *,
    size: int,
    seconds: float,
    output: Path,
    tell: Tell = lambda _: None,
) -> Bench:
    """Measure a host through the disk of `output`, then the network alone, then the disk alone.

    Args:
        host: As in `measure`.
        options: As in `measure`.
        size: As in `measure`, for everything together.
        seconds: As in `measure`, for everything together.
        output: The destination.
        tell: As in `measure`.

    Raises:
        FetchError: As `measure`.
    """
    rest = 1 - _NETWORK - _DISK
    found = await measure(
        host, options, size=int(size * rest), seconds=seconds * rest, output=output, tell=tell
    )
    network, received = await measure_network(
        host, options, size=int(size * _NETWORK), seconds=seconds * _NETWORK, tell=tell
    )
    disk = await disk_of(output, min(_DISK_SECONDS, seconds * _DISK))
    return replace(found, network=network, disk=disk, received=found.received + received)


async def disk_of(output: Path, seconds: float = _DISK_SECONDS) -> DiskRates:
    """Measure the disk of `output`, and the digests.

    Args:
        output: The destination.
        seconds: Seconds to write for.

    Raises:
        StorageError: The disk cannot be written.
    """
    async with scratch_folder(output) as folder:
        return await asyncio.to_thread(disk_rates, folder, output, seconds)
