"""The connection of this process to the head of a Ray cluster."""

from __future__ import annotations

import importlib
import logging
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

from ..model.errors import SettingsError

_CLIENT: Final = "ray://"  # what the address of a Ray Client server begins with


def connect(ray: Any, address: str) -> Callable[[], None]:
    """Connect this process to the cluster at an address, or "auto". Blocks.

    Args:
        ray: the module `ray`.
        address: `HOST:PORT`, `ray://HOST:PORT`, "auto", or "local" for a new cluster.

    Returns:
        A function that disconnects, and leaves Ray as the program had it. It blocks, too.

    Raises:
        SettingsError: no cluster answers at the address.
    """
    options: dict[str, Any] = {
        "logging_level": "error", "log_to_driver": False, "configure_logging": False,
    }  # fmt: skip
    # in another thread than the main one, Ray leaves our signal handlers alone, and says so
    logger, undo = logging.getLogger("ray"), ExitStack()
    undo.callback(logger.setLevel, logger.level)
    logger.setLevel(logging.ERROR)
    undo.callback(_mute())
    try:
        named = _found() if address == "auto" else address
        if named not in (None, "local"):
            _check_address(named)
        ray.init(address=address, **options)
    except SettingsError:
        undo.close()
        raise
    except (ConnectionError, RuntimeError, ValueError) as error:
        undo.close()
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SettingsError(
            f"no Ray cluster can be reached at {address} ({why}); start one with ray start --head, or "
            "give its address with --address HOST:PORT"
        ) from None
    undo.callback(ray.shutdown)
    return undo.close


def _mute() -> Callable[[], None]:
    """Keep Ray from printing what its daemons say to stdout, which is for data; no option does that.

    Returns:
        A function that lets it print again.
    """
    worker = importlib.import_module("ray._private.worker")
    prints = getattr(worker, "print_to_stdstream", None)
    if prints is None:
        return lambda: None
    vars(worker)["print_to_stdstream"] = lambda *_, **__: None
    return lambda: vars(worker).update(print_to_stdstream=prints)


def _found() -> str | None:
    """Return the address that Ray finds for `auto`: that in RAY_ADDRESS, or of a cluster on this machine.

    It may be that of a head that has died, while its nodes live on. None if a new cluster is asked for.

    Raises:
        ConnectionError: none is found.
    """
    stated = os.environ.get("RAY_ADDRESS", "")
    if stated.startswith(_CLIENT):
        return stated
    services = importlib.import_module("ray._private.services")
    found: str | None = services.canonicalize_bootstrap_address("auto")
    return found


def _check_address(address: str) -> None:
    """Raise SettingsError if no server listens at `HOST:PORT`; Ray itself would try for minutes."""
    host, _, port = address.removeprefix(_CLIENT).rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=10):
            return
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"no Ray cluster answers at {address} ({error}); check the address, or start one with ray start "
            "--head"
        ) from None
