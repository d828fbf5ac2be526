"""Fetch a manifest, and unpack each tar as soon as it is finished, while the other files are still fetched.

    python examples/02_fetch_as_they_finish.py MANIFEST FOLDER

Archives are unpacked in processes of their own. The members of an archive appear when it has been read to its
end: all of them, or none. Paths that lead out of FOLDER are refused.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from osp_fetch import Status, Unpacked, Unpacker, UnpackOptions, fetch_iter


def tell(result: Unpacked) -> None:
    """Print the result for one archive. Called from a thread of the unpacker."""
    print(f"unpacked {result.name}: {result.broken or f'{result.members} files into {result.target}'}")


async def main(manifest: str, folder: str) -> int:
    """Fetch and unpack, and return the exit code."""
    failed = 0
    unpacker = Unpacker(Path(folder), UnpackOptions(), tell)
    try:
        async for outcome in fetch_iter(manifest, folder):
            print(f"{outcome.status} {outcome.path} {outcome.error or outcome.digest}")
            if outcome.status not in (Status.FETCHED, Status.PRESENT):
                failed += 1
            elif outcome.path.endswith(".tar"):
                # A split archive needs all of its pieces in one call of expect, before the first is here.
                unpacker.expect([outcome.path])
                unpacker.here(outcome.path)
        results = await asyncio.to_thread(unpacker.finish)
    finally:
        unpacker.stop()
    return 1 if failed or any(result.broken for result in results) else 0


if __name__ == "__main__":  # needed: the unpacker starts processes that import this module
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(asyncio.run(main(*sys.argv[1:])))
