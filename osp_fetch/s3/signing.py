"""Signs requests for objects by AWS Signature Version 4, at the moment when they are sent."""

from __future__ import annotations

import asyncio

from ..model.errors import CredentialsError
from .credentials import Keys, KeySource, SignatureRequest


class Signer:
    """Replaces requests for signatures by signatures. One object serves all requests of a transport."""

    def __init__(self) -> None:
        self._sources: dict[str, KeySource] = {}
        self._looking = asyncio.Lock()

    async def signed(self, url: str, headers: dict[str, str]) -> dict[str, str]:
        """Return `headers` with a signature if they ask for one, else `headers` itself.

        Args:
            url: the URL of a GET request without a body, as it will be sent.
            headers: all headers that must be signed.

        Raises:
            CredentialsError: there are no keys, or the library is not installed.
        """
        name = next((each for each in headers if each.lower() == "authorization"), None)
        wanted = SignatureRequest.parse(headers[name]) if name else None
        if wanted is None:
            return headers
        keys = await self._keys(wanted.provider)
        return _signed(url, {k: v for k, v in headers.items() if k != name}, keys, wanted.region)

    async def _keys(self, provider: str) -> Keys:
        source = self._sources.setdefault(provider, KeySource(provider))
        try:
            if source.may_block:
                async with self._looking:
                    keys = await asyncio.to_thread(source.keys)
            else:
                keys = source.keys()
        except ImportError:
            raise CredentialsError(
                "signing requests for a bucket needs a library; run: pip install 'osp-fetch[s3]'"
            ) from None
        if keys is None:
            raise CredentialsError(
                "a row asks for a signed request, and there are no credentials; set AWS_PROFILE, or "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (for gs:// GS_ACCESS_KEY_ID and "
                "GS_SECRET_ACCESS_KEY)"
            )
        return keys


def _signed(url: str, headers: dict[str, str], keys: Keys, region: str) -> dict[str, str]:
    """Return `headers` with date and signature."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    request = AWSRequest("GET", url, headers=headers)
    S3SigV4Auth(Credentials(keys.identity, keys.secret, keys.token), "s3", region).add_auth(request)
    return dict(request.headers.items())
