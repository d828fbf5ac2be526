"""An origin as a separate process: `python benchmarks/origin.py`.

Its CPU time must not count as that of the client. It prints its port and serves `/SIZE/anything` as SIZE
bytes until it is terminated.
"""

from __future__ import annotations

import argparse

import uvloop

from osp_fetch.demo.server import Exchange, Server

_BLOCK = bytes(range(256)) * 4096


class Pattern:
    """Content of `length` bytes: a repeating pattern that is generated on reading."""

    def __init__(self, length: int) -> None:
        self.length = length

    def read(self, start: int, stop: int) -> bytes:
        first = start % len(_BLOCK)
        if first + stop - start <= len(_BLOCK):
            return _BLOCK[first : first + stop - start]
        return (_BLOCK * ((first + stop - start) // len(_BLOCK) + 1))[first : first + stop - start]


async def main(port: int, rate: float | None) -> None:
    async def handle(exchange: Exchange) -> None:
        length = int(exchange.path.split("/")[1])
        await exchange.serve(Pattern(length), {"ETag": '"pattern"'}, rate=rate)

    import asyncio

    async with Server(handle, port=port) as server:
        print(server.port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rate", type=float, help="bytes per second of each connection")
    arguments = parser.parse_args()
    uvloop.run(main(arguments.port, arguments.rate))
