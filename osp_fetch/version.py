"""The version of osp-fetch, which pyproject.toml and the User-Agent header take from here."""

__version__ = "0.1.0"
