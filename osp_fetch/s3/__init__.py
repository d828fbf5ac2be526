"""The S3 API: addresses of buckets, requests to one bucket, and the translation of errors.

Both sides use it: `storage.bucket` writes objects, `sources` lists them, `network` signs requests for them.

May import: the standard library, `aiobotocore` and `botocore` (inside functions), `tenacity`, and from
osp_fetch only `model`. Start reading in `client` (`Bucket`), then `session` and `errors`.
"""
