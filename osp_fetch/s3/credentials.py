"""Keys for signing requests, and the header by which a row of a manifest asks for a signature."""

from __future__ import annotations

import os
import re
from dataclasses import field
from typing import Any, Final

from ..model.dataclasses import dataclass
from ..model.errors import CredentialsError

ALGORITHM: Final = "AWS4-HMAC-SHA256"
_REQUEST: Final = rf"{ALGORITHM} Credential=(?P<provider>aws|gs)/(?P<region>[\w-]+)/s3"


@dataclass(frozen=True, slots=True)
class Keys:
    """An access key.

    Attributes:
        identity: its public part.
        secret: its secret part.
        token: the session token of temporary keys.
    """

    identity: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)

    def options(self) -> dict[str, Any]:
        """Return the arguments of botocore's `create_client`."""
        return {
            "aws_access_key_id": self.identity,
            "aws_secret_access_key": self.secret,
            "aws_session_token": self.token,
        }


@dataclass(frozen=True, slots=True)
class SignatureRequest:
    """The request for a signature, in place of the value of an Authorization header.

    Rows carry it instead of a signature, which would expire, or of keys, which would end up in files. The
    transport replaces it whenever it sends a request.

    Attributes:
        provider: whose keys sign: `aws`, or `gs` for the HMAC keys of Google's storage.
        region: the region of the bucket.
    """

    provider: str
    region: str

    def __str__(self) -> str:
        return f"{ALGORITHM} Credential={self.provider}/{self.region}/s3"

    @classmethod
    def parse(cls, value: str) -> SignatureRequest | None:
        """Return the request that the value of an Authorization header is, None if it is none."""
        match = re.fullmatch(_REQUEST, value)
        return cls(match["provider"], match["region"]) if match else None


class KeySource:
    """The user's keys at one provider. botocore renews those of a role before they expire.

    Args:
        provider: `aws` finds keys as every AWS tool does; `gs` takes HMAC keys from GS_ACCESS_KEY_ID and
            GS_SECRET_ACCESS_KEY.
    """

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._found: Any = None  # botocore's credentials

    @property
    def may_block(self) -> bool:
        """Whether `keys` may ask over the network: for the first keys, and for renewed ones."""
        if self._provider == "gs":
            return False
        is_due = getattr(self._found, "refresh_needed", None)
        return self._found is None or (is_due is not None and bool(is_due()))

    def keys(self) -> Keys | None:
        """Return the keys that are valid now, None if the user has none.

        Raises:
            CredentialsError: the configuration of the AWS tools cannot be used.
            ImportError: the library is not installed.
        """
        if self._provider == "gs":
            identity, secret = os.environ.get("GS_ACCESS_KEY_ID"), os.environ.get("GS_SECRET_ACCESS_KEY")
            return Keys(identity, secret) if identity and secret else None
        from botocore import exceptions
        from botocore.session import Session

        try:
            self._found = self._found or Session().get_credentials()
            frozen = self._found.get_frozen_credentials() if self._found else None
        except exceptions.BotoCoreError as error:
            raise CredentialsError(
                f"the credentials of AWS cannot be found: {error}; check AWS_PROFILE"
            ) from None
        return Keys(frozen.access_key, frozen.secret_key, frozen.token) if frozen else None
