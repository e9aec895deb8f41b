"""Object stores through pyarrow, behind fsspec: the s3fs that a resolver chooses among other packages may be years old.

``s3://``: endpoint, region and credentials come from the environment alone (``AWS_ENDPOINT_URL``, ``AWS_REGION``,
``AWS_ACCESS_KEY_ID``, a profile, or the machine's role). ``gs://``: the application default credentials.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow import fs as arrow

# wmdd retries with jitter and a log line; the retries of the SDK would multiply with these.
ONE_TRY, ONE_TRY_S = 1, timedelta(seconds=2)


class ObjectFiles(ArrowFSWrapper):  # type: ignore[misc]
    """pyarrow's file system, with each file read by one request, and listed as a whole."""

    cachable = False

    @staticmethod
    def root_of(url: str) -> str:
        """Return the path of a URL, bucket and key; a key may hold ? and #, which end the path of other URLs."""
        return url.partition("://")[2].rstrip("/")

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        """Return a file's bytes, or a part of them.

        The wrapper reads 256 KiB with each request, and would mix an old and a new object.
        """
        with self.fs.open_input_file(self._strip_protocol(path)) as file:
            size = file.size()
            first, last = start or 0, size if end is None else min(end, size)
            data: bytes = file.read_at(max(0, last - first), first)
        if len(data) != max(0, last - first):
            raise OSError(f"{path}: {len(data)} bytes came of {last - first}")
        return data

    def below(self, path: str) -> dict[str, dict[str, Any]]:
        """Return all files below a folder by their paths, a thousand with one request."""
        infos = self.fs.get_file_info(arrow.FileSelector(self._strip_protocol(path), recursive=True))
        entries = [self._make_entry(info) for info in infos]
        return {entry["name"]: entry for entry in entries if entry["type"] == "file"}


class S3Files(ObjectFiles):
    """Amazon S3, and other servers with its protocol; without region or endpoint the bucket is asked for its region."""

    protocol = ("s3", "s3a")

    def __init__(self, bucket: str) -> None:
        options: dict[str, Any] = {"retry_strategy": arrow.AwsStandardS3RetryStrategy(max_attempts=ONE_TRY)}
        options |= {"connect_timeout": 10, "request_timeout": 60}  # the SDK's 3 s cut busy servers off
        options["allow_delayed_open"] = True  # a small file is then one PUT, not the three requests of a multipart one
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if endpoint:
            options["endpoint_override"] = endpoint
        elif not region:
            region = arrow.resolve_s3_region(bucket)
        super().__init__(arrow.S3FileSystem(region=region, **options))


class GoogleFiles(ObjectFiles):
    """Google Cloud Storage; all buckets are opened in the same way."""

    protocol = ("gs", "gcs")

    def __init__(self, bucket: str) -> None:
        super().__init__(arrow.GcsFileSystem(retry_time_limit=ONE_TRY_S))
