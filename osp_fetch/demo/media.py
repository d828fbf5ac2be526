"""Small archives of JPEG and JSON files in the form of SA-1B's tars (docs/sources.md, "SA-1B link file")."""

from __future__ import annotations

import base64
import gzip
import io
import json
import random
import tarfile

# a grey 8 × 8 baseline JPEG; a comment segment makes each image different
_JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQERMU"
    "FRUVDA8XGBYUGBIUFRT/wAALCAAIAAgBAREA/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUFBAQA"
    "AAF9AQIDAAQRBRIhMUEGE1FhByJxFDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVWV1hZWmNk"
    "ZWZnaGlqc3R1dnd4eXqDhIWGh4iJipKTlJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi4+Tl5ufo6erx"
    "8vP09fb3+Pn6/9oACAEBAAA/APygr//Z"
)


def jpeg(payload: bytes) -> bytes:
    """Return a JPEG with `payload` in its comment segment.

    Args:
        payload: At most 65,533 bytes, the most that a JPEG segment holds.

    Raises:
        OverflowError: `payload` is longer.
    """
    comment = b"\xff\xfe" + (len(payload) + 2).to_bytes(2, "big") + payload
    return _JPEG[:2] + comment + _JPEG[2:]


def sa1b_tar(number: int, size: int) -> bytes:
    """Return a tar as SA-1B has them: compressed with gzip despite its name, with `./sa_N.jpg` and `.json`.

    Args:
        number: The archive's number; it determines the names and contents of the members.
        size: Approximate size of the archive in bytes.

    Returns:
        The archive; equal arguments give equal bytes.
    """
    chance = random.Random(number)
    out = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|") as tar,
    ):
        image = number * 1000
        while out.tell() < size:
            image += 1
            picture = jpeg(chance.randbytes(min(60_000, max(1, size // 2))))
            facts = {"image": {"image_id": image, "file_name": f"sa_{image}.jpg", "width": 8, "height": 8}}
            _add(tar, f"./sa_{image}.jpg", picture)
            _add(tar, f"./sa_{image}.json", json.dumps({**facts, "annotations": []}).encode())
            packed.flush()
    return out.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Append one member to `tar`."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
