"""What ``weaksam doctor`` tries of a folder or bucket: reading, and all that a run folder needs besides."""

from __future__ import annotations

import os
import posixpath
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipelines.cli.check import Check
from pipelines.store.exclusive import UNSAFE, UNSAFE_REMEDY, create_exclusively
from pipelines.store.explain import explain
from weaksam.errors import StorageError, WeaksamError
from weaksam.io.files import is_folder, is_remote, join, open_fs

_CHECK_ADDRESS = "check the address, AWS_ENDPOINT_URL or STORAGE_EMULATOR_HOST, the region and the credentials"


def of_place(uri: str) -> list[Check]:
    """Try reading and, if that goes, writing."""
    reading = access(uri)
    return [reading] if reading.state == "fail" else [reading, writing(uri)]


def access(uri: str) -> Check:
    """``uri`` is a folder or bucket prefix that this process can list."""
    name = "access"
    try:
        if is_remote(uri):
            entries = _entries(uri)
            nothing = "" if entries else ", as of a run folder before its first run"
            return Check(name=name, state="ok", detail=f"{uri}: {entries:,} entries{nothing}")
        found = is_folder(uri)
    except WeaksamError as error:
        return Check(name=name, state="fail", detail=str(error), remedy="check the address")
    except Exception as error:  # botocore's, aiohttp's and gcsfs's families besides OSError
        detail = f"{uri}: {type(error).__name__}: {error}"
        return Check(name=name, state="fail", detail=detail, remedy=_CHECK_ADDRESS)
    if not found:
        return Check(name=name, state="fail", detail=f"{uri}: no such folder", remedy="check the path")
    return Check(name=name, state="ok", detail=f"{uri}: a folder")


def _entries(uri: str) -> int:
    """Count what lies at ``uri``. A bucket has no folders of their own: one without entries is where a bucket is."""
    fs, path = open_fs(uri)
    try:
        return len(fs.ls(path))
    except FileNotFoundError:
        bucket = path.partition("/")[0]
        if bucket == path:
            raise
        fs.ls(bucket)  # not there: raises
        return 0


def writing(uri: str) -> Check:
    """A file under ``uri`` can be created by one process alone, read back, listed and deleted, as run folders need."""
    name, file = "writing", join(uri, f"_probe-{uuid.uuid4().hex}")
    fs, path = open_fs(file)
    try:
        with _trying("create a file", uri):
            create_exclusively(file, b"first")
        try:
            with _trying("read back what was written", uri):
                same = fs.cat_file(path) == b"first"
            with _trying("list what was written", uri):
                fs.invalidate_cache()
                listed = {posixpath.basename(there) for there in fs.ls(posixpath.dirname(path), detail=False)}
            with _trying("create a file that is there", uri):
                exclusive = not create_exclusively(file, b"second")
        finally:
            with _trying("delete a file", uri):
                fs.rm_file(path)
    except StorageError as error:
        remedy = "enough for data to read; a run folder needs the rights to create, read, list and delete files"
        return Check(name=name, state="warn", detail=str(error), remedy=remedy)
    if not same or posixpath.basename(path) not in listed:
        remedy = "take a store in which everybody sees at once what was written"
        return Check(name=name, state="fail", detail=f"{uri}: what was written is not there at once", remedy=remedy)
    if not exclusive:
        return Check(name=name, state="fail", detail=f"{uri}: {UNSAFE}", remedy=UNSAFE_REMEDY)
    return Check(name=name, state="ok", detail=f"{uri}: a file was created once, read back, listed and deleted")


@contextmanager
def _trying(what: str, uri: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # botocore's, aiohttp's and gcsfs's families besides OSError
        raise StorageError(f"{uri}: cannot {what} ({explain(error) or error})") from error


def s3_settings(environment: Mapping[str, str] = os.environ) -> Check:
    """Whether S3 would find an endpoint, a region and credentials; their values are not shown."""
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or "AWS"
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "no region set"
    found = list(_credentials(environment))
    detail = (
        f"endpoint {_without_user(endpoint)}, {region}, credentials from {found[0] if found else 'nowhere visible'}"
    )
    if environment.get("AWS_ACCESS_KEY_ID") and not environment.get("AWS_SECRET_ACCESS_KEY"):
        return Check(
            name="S3", state="fail", detail=detail, remedy="AWS_ACCESS_KEY_ID needs AWS_SECRET_ACCESS_KEY beside it"
        )
    return Check(
        name="S3", state="ok", detail=detail + ("" if found else " (needed for s3:// only; a role may give them)")
    )


def _credentials(environment: Mapping[str, str]) -> Iterator[str]:
    if environment.get("AWS_ACCESS_KEY_ID"):
        yield "the environment"
    if environment.get("AWS_WEB_IDENTITY_TOKEN_FILE") or environment.get("AWS_ROLE_ARN"):
        yield "a role's token"
    if environment.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") or environment.get(
        "AWS_CONTAINER_CREDENTIALS_FULL_URI"
    ):
        yield "the container"
    file = Path(environment.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
    if file.is_file():
        yield str(file)


def _without_user(address: str) -> str:
    """Return an address without the name and password that it may carry."""
    return re.sub(r"//[^/@]*@", "//", address)
