"""Optional packages: whether one is installed is checked before a run begins."""

from __future__ import annotations

from importlib.util import find_spec

from .row_parser import broken


def need(package: str, extra: str, purpose: str) -> None:
    """Check that an optional package is installed.

    Args:
        package: the name by which it is imported.
        extra: the extra of osp-fetch that installs it.
        purpose: what needs it, for the message.

    Raises:
        ManifestError: it is not installed. The message names the command that installs it.
    """
    if find_spec(package) is None:
        raise broken(f"{purpose} needs {package}, which is not installed: pip install 'osp-fetch[{extra}]'")
