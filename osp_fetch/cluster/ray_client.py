"""This process as a client of a Ray cluster: the module `ray`, and the connection to the head."""

from __future__ import annotations

import importlib
import logging
import os
import socket
from typing import Any

from ..model.errors import SettingsError


def connect(address: str) -> None:
    """Connect this process to the cluster at an address, or "auto". Blocks.

    Raises:
        SettingsError: Ray is not installed, or no cluster answers at the address.
    """
    ray = module()
    options: dict[str, Any] = {
        "logging_level": "error", "log_to_driver": False, "configure_logging": False,
    }  # fmt: skip
    # in another thread than the main one, Ray leaves our signal handlers alone, and says so
    logging.getLogger("ray").setLevel(logging.ERROR)
    _mute()
    try:
        if address != "local":
            _check_address(_found() if address == "auto" else address)
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SettingsError(
            f"no Ray cluster can be reached at {address} ({why}); start one with ray start --head, or "
            "give its address with --address HOST:PORT"
        ) from None


def module() -> Any:
    """Return the module `ray`.

    Raises:
        SettingsError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise SettingsError("--engine ray needs Ray; run: pip install 'osp-fetch[ray]'") from None
    return ray


def _mute() -> None:
    """Keep Ray from printing what its daemons say to stdout, which is for data; no option does that."""
    worker = importlib.import_module("ray._private.worker")
    if hasattr(worker, "print_to_stdstream"):
        vars(worker)["print_to_stdstream"] = lambda *_, **__: None


def _found() -> str:
    """Return the address that Ray finds for `auto`: that in RAY_ADDRESS, or of a cluster on this machine.

    It may be that of a head that has died, while its nodes live on.

    Raises:
        ConnectionError: none is found.
    """
    from ray._private.services import canonicalize_bootstrap_address

    return str(canonicalize_bootstrap_address("auto"))


def _check_address(address: str) -> None:
    """Raise SettingsError if no server listens at `HOST:PORT`; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=10):
            return
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"no Ray cluster answers at {address} ({error}); check the address, or start one with ray start "
            "--head"
        ) from None
