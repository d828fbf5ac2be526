"""What to do about files that failed, by the cause of their errors."""

from __future__ import annotations

from typing import Final

_AGAIN: Final = "Run the same command again; finished files are not fetched again."
_ADVICE: Final = {
    "manifest": "Correct these rows of the list; the message names the line.",
    "credentials": "Give other credentials: HF_TOKEN, --header, or a netrc file.",
    "settings": "Correct the setting that the message names.",
    "network": _AGAIN + " If it happens often, use fewer connections (-x).",
    "too long": "The server sent more than it announced. Compare the size in the list with the source.",
    "slow connection": _AGAIN,
    "fewer connections": _AGAIN,
    "no answer": "The host did not answer. " + _AGAIN + " `retry.outage` says how long it is waited for.",
    "no such name": "The host does not exist. Correct the link, or remove the rows (--failed lists them).",
    "certificate": "The server's certificate is not valid. Pass the authority of a proxy with --cacert.",
    "pause": "The server asked for a longer pause than `retry.retry_after`. Run the same command later.",
    "link expired": "Put a fresh link file in place of the old one, and run the same command again.",
    "link renewed": _AGAIN,
    "quota": "The quota of these files is used up. Wait a day, or use another source.",
    "not the payload": "A page came in place of the file. Open the link in a browser; a login may be needed.",
    "size limit": "Raise `limits.file_size`, or state the size in the list.",
    "time limit": "Raise `limits.file_time`; the held bytes are kept.",
    "changed": "The file has changed on the server. Run again, and update the digest in the list.",
    "another mirror": _AGAIN,
    "integrity": (
        "The bytes do not have the digest of the list. If the same bytes came twice, they are in "
        ".osp-fetch/aside, and the digest is probably wrong."
    ),
    "storage": "Look at the message: the file or its folder cannot be written.",
    "name conflict": "A file and a folder cannot have one name. Rename one of the rows, or what is there.",
    "disk full": "Free some space, or lower --min-free, and run the same command again.",
    "folder busy": "Wait until the other run has ended.",
    "error": "This is probably a defect of osp-fetch; please report it with the message.",
}
_STATUS: Final = {
    "0": "The link is not valid. Correct the list.",
    "302": "The server leads to an address that is not accepted; the message says why.",
    "401": "The server wants credentials: --header, a netrc file, or HF_TOKEN for the Hugging Face Hub.",
    "403": "The server refuses these files: a login, an expired link, or a limit of requests.",
    "404": "The file does not exist at this link. Correct the list.",
    "407": "The proxy wants credentials: state them in the address of the proxy.",
    "410": "The file was removed. Correct the list.",
    "416": "The server has another size than the list. Compare both.",
    "429": "The server allows fewer requests. Use fewer connections (-x), and run again later.",
    "451": "The file is withheld for legal reasons. Another source may have it.",
}


def what_to_do(cause: str) -> str:
    """Return what to do about files that failed with this cause; see `FetchError.cause`."""
    if cause in _ADVICE:
        return _ADVICE[cause]
    code = cause.removeprefix("status ")
    if code in _STATUS:
        return _STATUS[code]
    if code.startswith("4"):
        return "The server refuses the request. Open the link in a browser, and correct the list."
    return _AGAIN
