"""Opens a client for a bucket; credentials, region and endpoint are found as every AWS tool finds them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from ..model.errors import CredentialsError, SettingsError
from ..model.settings import S3
from ..version import __version__
from .address import BucketAddress
from .client import Bucket
from .credentials import Keys

# Seconds to connect, and seconds without a byte. S3 sends blanks while it completes an upload.
_TIMEOUTS: Final = (20, 120)


@asynccontextmanager
async def connected(
    address: BucketAddress,
    settings: S3,
    connections: int,
    patience: float,
    *,
    reads_only: bool = False,
    keys: Keys | None = None,
    unsigned: bool = False,
) -> AsyncIterator[Bucket]:
    """Open a client for a bucket.

    Args:
        address: the bucket.
        settings: the endpoint and how the bucket is addressed.
        connections: largest number of connections.
        patience: as in `Bucket`.
        reads_only: whether nothing is written to the bucket; messages then ask for fewer rights.
        keys: the keys to sign with; None for those that every AWS tool finds.
        unsigned: whether requests are not signed, as public buckets allow it.

    Raises:
        SettingsError: the library is not installed, or its configuration cannot be used.
        CredentialsError: the profile does not exist.
    """
    session = _session(address)
    own = settings.endpoint or session.get_config_variable("endpoint_url") or _endpoint_of_environment()
    options = keys.options() if keys else {}
    with _translated(address):
        making = session.create_client(
            "s3",
            endpoint_url=settings.endpoint or None,
            region_name=_region(session, own),
            config=_config(settings, connections, has_own_endpoint=bool(own), unsigned=unsigned),
            **options,
        )
        client = await making.__aenter__()
        credentials = None if unsigned or reads_only else await _credentials(session, keys)
    try:
        yield Bucket(client, address, patience, reads_only=reads_only, credentials=credentials)
    finally:
        await making.__aexit__(None, None, None)


def _session(address: BucketAddress) -> Any:
    """Return a session of the library. Raises SettingsError if it is not installed."""
    try:
        from aiobotocore.session import get_session
    except ImportError:
        raise SettingsError(f"{address}: buckets need a library; run: pip install 'osp-fetch[s3]'") from None
    return get_session()


async def _credentials(session: Any, keys: Keys | None) -> Any:
    """Return the credentials that a client signs with, None if there are none."""
    if keys is None:
        return await session.get_credentials()
    from aiobotocore.credentials import AioCredentials

    return AioCredentials(keys.identity, keys.secret, keys.token)


@contextmanager
def _translated(address: BucketAddress) -> Iterator[None]:
    """Translate what the library raises while a client is made."""
    from botocore import exceptions

    try:
        yield
    except exceptions.ProfileNotFound as error:
        raise CredentialsError(f"{address}: {error}; check AWS_PROFILE") from None
    except (exceptions.BotoCoreError, ValueError) as error:
        raise SettingsError(f"{address}: {error}") from None


def _config(settings: S3, connections: int, *, has_own_endpoint: bool, unsigned: bool) -> Any:
    """Return the configuration of a client."""
    from aiobotocore.config import AioConfig
    from botocore import UNSIGNED

    # a store of one's own seldom has a name for each bucket
    found = "path" if has_own_endpoint else "auto"
    return AioConfig(
        s3={
            "addressing_style": found if settings.addressing == "auto" else settings.addressing,
            # every body carries a checksum; signing it, too, would hash it a second time
            "payload_signing_enabled": False,
        },
        signature_version=UNSIGNED if unsigned else None,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"total_max_attempts": 1},  # `Bucket` repeats requests
        max_pool_connections=connections,
        connect_timeout=_TIMEOUTS[0],
        read_timeout=_TIMEOUTS[1],
        user_agent=f"osp-fetch/{__version__}",
        parameter_validation=False,
    )


def _endpoint_of_environment() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _region(session: Any, endpoint: str | None) -> str | None:
    """Return the region for a store of one's own, which seldom has any; None to leave it to botocore."""
    from botocore import exceptions

    try:
        found = session.get_config_variable("region")
    except exceptions.ProfileNotFound:
        return None  # `create_client` reports it
    return None if found else ("us-east-1" if endpoint else None)
