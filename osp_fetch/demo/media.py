"""Makes small archives of JPEG and JSON, such as SA-1B's tars hold."""

from __future__ import annotations

import base64
import gzip
import io
import json
import random
import tarfile

# a grey 8 × 8 baseline JPEG; a comment segment makes each picture its own
_JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQERMU"
    "FRUVDA8XGBYUGBIUFRT/wAALCAAIAAgBAREA/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUFBAQA"
    "AAF9AQIDAAQRBRIhMUEGE1FhByJxFDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVWV1hZWmNk"
    "ZWZnaGlqc3R1dnd4eXqDhIWGh4iJipKTlJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi4+Tl5ufo6erx"
    "8vP09fb3+Pn6/9oACAEBAAA/APygr//Z"
)


def jpeg(payload: bytes) -> bytes:
    """A picture with `payload`, at most 65,533 bytes, in its comment."""
    comment = b"\xff\xfe" + (len(payload) + 2).to_bytes(2, "big") + payload
    return _JPEG[:2] + comment + _JPEG[2:]


def sa1b_tar(number: int, size: int) -> bytes:
    """A tar of about `size` bytes as SA-1B has them: gzip despite its name, `./sa_N.jpg` and `.json`."""
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
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
