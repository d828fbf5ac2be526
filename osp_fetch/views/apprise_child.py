"""The process that hands one notice to apprise. It is separate so that it can be killed when it hangs.

It reads `{"url": …, "notice": …}` on stdin; without a notice, it only checks the address. It writes a JSON
object to stdout: `known` (whether apprise knows the address), `sent`, and `why` (the service's error). The
exit status is 0 if the notice was sent.
"""

from __future__ import annotations

import json
import logging
import re
import signal
import sys
from io import StringIO
from typing import Any, Final

from ..model.urls import redact

# Seconds after which the process ends by itself, if the run that started it was killed.
_ALARM: Final = 300
# Characters of a part of an address from which on it may be a secret.
_SHORT: Final = 5


def main() -> None:
    """Deliver the notice on stdin, and exit."""
    signal.alarm(_ALARM)
    given = json.load(sys.stdin)
    result = _delivered(given["url"], given.get("notice"))
    print(json.dumps(result), flush=True)
    sys.exit(0 if result["sent"] or (result["known"] and "notice" not in given) else 1)


def _delivered(url: str, notice: dict[str, Any] | None) -> dict[str, Any]:
    import apprise

    asset = apprise.AppriseAsset(app_id="osp-fetch", app_desc="osp-fetch", app_url="", async_mode=False)
    service = apprise.Apprise(asset=asset)
    result: dict[str, Any] = {"known": bool(service.add(url)), "sent": False, "why": ""}
    if not result["known"] or notice is None:
        return result
    body = f"{notice['text']}\n{notice['place']} on {notice['machine']}"
    log = StringIO()
    handler = logging.StreamHandler(log)
    logging.getLogger("apprise").addHandler(handler)
    result["sent"] = bool(service.notify(title=notice["title"], body=body, notify_type=notice["level"]))
    lines = log.getvalue().splitlines()
    result["why"] = without_secrets(lines[-1] if lines else "", url)[:300]
    return result


def without_secrets(text: str, url: str) -> str:
    """Return a message of a service without the parts of its address, which may be tokens."""
    for part in sorted(re.split(r"[^\w.-]+", url), key=len, reverse=True):
        if len(part) >= _SHORT:
            text = text.replace(part, "…")
    return redact(text)
