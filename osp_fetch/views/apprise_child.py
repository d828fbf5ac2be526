"""The process that hands one notice to apprise. It is separate so that it can be killed when it hangs.

It reads `{"url": …, "notice": …}` on stdin, and writes `sent` and `why` (the service's error) as JSON.
The exit status is 0 if the notice was sent. For `{"check": [URL, …]}` it only writes `known`: whether
apprise knows each address.
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
    result = _checked(given["check"]) if "check" in given else _delivered(given["url"], given["notice"])
    print(json.dumps(result), flush=True)
    sys.exit(0 if result.get("sent", True) else 1)


def _checked(urls: list[str]) -> dict[str, Any]:
    import apprise

    return {"known": [bool(apprise.Apprise().add(url)) for url in urls]}


def _delivered(url: str, notice: dict[str, Any]) -> dict[str, Any]:
    import apprise

    asset = apprise.AppriseAsset(app_id="osp-fetch", app_desc="osp-fetch", app_url="", async_mode=False)
    service = apprise.Apprise(asset=asset)
    if not service.add(url):
        return {"sent": False, "why": "apprise does not know this address"}
    body = f"{notice['text']}\n{notice['place']} on {notice['machine']}"
    log = StringIO()
    logging.getLogger("apprise").addHandler(logging.StreamHandler(log))
    sent = bool(service.notify(title=notice["title"], body=body, notify_type=notice["level"]))
    lines = log.getvalue().splitlines()
    return {"sent": sent, "why": without_secrets(lines[-1] if lines else "", url)[:300]}


def without_secrets(text: str, url: str) -> str:
    """Return a message of a service without the parts of its address, which may be tokens."""
    for part in sorted(re.split(r"[^\w.-]+", url), key=len, reverse=True):
        if len(part) >= _SHORT:
            text = text.replace(part, "…")
    return redact(text)
