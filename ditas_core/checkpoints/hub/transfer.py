"""One file over HTTP: resumed, bounded, hashed, and only then given its name.

huggingface_hub finds the addresses, the token and the cache; the bytes are moved here,
since its own downloads start over in every process and cannot be cancelled between two
chunks. Every function that may take long is a generator of ticks: whoever drives it
shows progress, and cancels by closing it. What arrived stays beside the target as
``NAME.ETAG.part`` and the next download goes on from there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ...models import CheckpointError
from ..machine import figure

CHUNK = 2**20
TIMEOUT = 4.0  # seconds without a byte; then the rest is asked for again, or cancelling is heard
TRIES = 5  # in a row without progress
LONGEST_WAIT = 60.0  # seconds; servers that ask for more are asked again sooner
RETRIED = {408, 429, 500, 502, 503, 504}
REMEDY = "go online once, or pass a local diffusers folder"
Sleep = Callable[[float], None]
Result = TypeVar("Result")
Word = TypeVar("Word")


@dataclass(frozen=True)
class Remote:
    """What the hub says about a file; ``etag`` is sha256 of a large file, git's sha1 of a
    small one."""

    url: str
    size: int
    etag: str
    commit: str


class NotThere(CheckpointError):
    """The hub has no such file."""


class Redirects(urllib.request.HTTPRedirectHandler):
    """Within the hub with its token, elsewhere without; never from https to plain http."""

    max_redirections = 5

    def __init__(self, leave: bool) -> None:
        self.leave = leave

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if new.scheme not in ("https", old.scheme):
            raise CheckpointError(f"hub: expected to stay on {old.scheme}, got sent to {newurl!r}")
        same = (old.scheme, old.netloc) == (new.scheme, new.netloc)
        if not same and not self.leave:
            return None  # the answer itself says what the file is
        made = urllib.request.Request(newurl, headers=dict(req.headers), method=req.get_method())
        if not same:
            made.remove_header("Authorization")
        return made


def pause(seconds: float, sleep: Sleep) -> Generator[None, None, None]:
    """Wait, in ticks of at most a second."""
    while seconds > 0:
        yield
        sleep(min(1.0, seconds))
        seconds -= 1.0


def ask(url: str, method: str, headers: dict[str, str], sleep: Sleep) -> Generator[None, None, Any]:
    """The response to a request; busy servers and lost connections are tried again.

    Raises:
        CheckpointError: refused, not there, still busy after ``TRIES``, or no connection.
    """
    opener = urllib.request.build_opener(Redirects(leave=method == "GET"))
    where = host_of(url)
    reason = "no answer"
    for attempt in range(TRIES):
        wait = min(2.0**attempt, LONGEST_WAIT)
        request = urllib.request.Request(url, headers=headers, method=method)
        try:
            return opener.open(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            with error:
                if 300 <= error.code < 400 and method == "HEAD":
                    return error
                if error.code not in RETRIED:
                    kind = NotThere if error.code == 404 else CheckpointError
                    raise kind(answer(error.code, url, where)) from None
                reason = answer(error.code, url, where)
                wait = retry_after(error.headers, wait)
        except (OSError, http.client.HTTPException) as error:  # URLError among them
            reason = f"hub: expected an answer from {where}, got none ({describe(error)}); {REMEDY}"
        except CheckpointError:
            raise
        except ValueError as error:  # no address, where it sent us to
            raise CheckpointError(
                f"hub: expected {where} to answer or to name another address, got one that is "
                f"none ({describe(error)}); check HF_ENDPOINT, {REMEDY}"
            ) from None
        if attempt + 1 < TRIES:
            yield from pause(wait, sleep)
    raise CheckpointError(f"{reason} ({TRIES} tries)")


def host_of(url: str) -> str:
    """Of an address.

    Raises:
        CheckpointError: it is none.
    """
    try:
        return urllib.parse.urlsplit(url).netloc
    except ValueError as error:
        raise CheckpointError(
            f"hub: expected an address, got {url[:80]!r} ({describe(error)}); check HF_ENDPOINT"
        ) from None


def describe(error: BaseException) -> str:
    return (
        " ".join(str(getattr(error, "reason", None) or error).split())[:120] or type(error).__name__
    )


def retry_after(headers: Any, otherwise: float) -> float:
    """Seconds that the server asks to wait, within bounds."""
    text = str(headers.get("Retry-After", "")).strip()
    return min(float(text), LONGEST_WAIT) if text.isascii() and text.isdigit() else otherwise


def answer(code: int, url: str, where: str) -> str:
    """A line for a status that is no success."""
    file = urllib.parse.urlsplit(url).path
    if code in (401, 403):
        return (
            f"hub: expected leave to read {file} from {where}, got {code}: the repository is "
            "gated, private or gone, or the token is wrong; accept its terms on its page and log "
            "in with hf auth login, or pass a local diffusers folder"
        )
    if code in (404, 410):
        return (
            f"hub: expected {file} on {where}, got {code}: no such repository, revision or file; "
            "pass another revision (REPO@REVISION), or a local diffusers folder"
        )
    if code == 429:
        return f"hub: expected {file} from {where}, got 429, too many requests; try again later"
    return f"hub: expected {file} from {where}, got {code}; try again later"


def look_up(
    url: str, headers: dict[str, str], sleep: Sleep = time.sleep
) -> Generator[None, None, Remote]:
    """What the hub says about a file, without its bytes."""
    response = yield from ask(url, "HEAD", {**headers, "Accept-Encoding": "identity"}, sleep)
    with contextlib.closing(response):
        found = response.headers
    linked = found.get("X-Linked-Size")
    size = linked or (None if "Location" in found else found.get("Content-Length"))
    etag = (found.get("X-Linked-ETag") or found.get("ETag") or "").removeprefix("W/").strip('"')
    if (
        not size
        or not re.fullmatch("[0-9]{1,18}", size)
        or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag)
    ):
        raise CheckpointError(
            f"hub: expected the size and hash of {urllib.parse.urlsplit(url).path}, got "
            f"{str(size)[:40]!r} and {etag[:80]!r}; check HF_ENDPOINT, {REMEDY}"
        )
    return Remote(url, int(size), etag, found.get("X-Repo-Commit", ""))


def file_hash(path: Path, etag: str) -> Generator[None, None, str]:
    """The hash of the kind that ``etag`` is: sha256, or git's sha1 of a blob."""
    digest = hashlib.sha256() if len(etag) == 64 else hashlib.sha1(usedforsecurity=False)
    if len(etag) == 40:
        digest.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as stream:
        while chunk := stream.read(8 * CHUNK):
            digest.update(chunk)
            yield
    return digest.hexdigest()


def plain_file(path: Path) -> bool:
    """Whether a regular file lies there itself, no link to one.

    Raises:
        CheckpointError: something else does.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise CheckpointError(
            f"{path.name}: expected a file of its own in {path.parent}, got a link or a folder; "
            "remove it and try again"
        )
    return path.exists()


def part_of(remote: Remote, target: Path) -> Path:
    """Where the bytes gather until they are whole."""
    return target.with_name(f"{target.name}.{remote.etag[:16]}.part")


def arrived(remote: Remote, target: Path) -> int:
    """Bytes of this very file that lie there already; those of another are not it."""
    for path in (target, part_of(remote, target)):
        if path.is_file():
            return min(path.stat().st_size, remote.size)
    return 0


def place_for(error: OSError, target: Path) -> CheckpointError:
    """What is said where a file cannot be put."""
    return CheckpointError(
        f"{target.name}: expected to write it into {'/'.join(target.parts[-3:-1])}, got "
        f"{error.strerror or error}; free it, or set HF_HOME to another place"
    )


def download(
    remote: Remote, target: Path, headers: dict[str, str], sleep: Sleep = time.sleep
) -> Generator[int, None, None]:
    """Fetch a file to ``target``; yields the bytes that are there, of ``remote.size``.

    Raises:
        CheckpointError: see ``ask``; the bytes are not those the hub announced (they are
            removed); no room on the disk (what arrived is removed).
    """
    part = part_of(remote, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise place_for(error, target) from None
    if not plain_file(target):
        plain_file(part)
        try:
            yield from fill(remote, part, headers, sleep)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                part.unlink(missing_ok=True)
                raise CheckpointError(
                    f"{target.name}: expected {figure(remote.size)} of room in {target.parent}, "
                    f"got none left ({error.strerror}); make room, or set HF_HOME to another disk"
                ) from None
            raise place_for(error, target) from None
        check = part
    else:
        check = target
    if check.stat().st_size != remote.size:
        check.unlink()
        raise CheckpointError(
            f"{target.name}: expected {remote.size} B, got another number; removed: try again"
        )
    found = yield from tell(file_hash(check, remote.etag), remote.size)
    if found != remote.etag:
        check.unlink()
        raise CheckpointError(
            f"{target.name}: expected the hash {remote.etag}, got {found}: damaged on the way or "
            "altered; removed, nothing in it was run: try again"
        )
    os.replace(check, target)
    yield remote.size


def fill(
    remote: Remote, part: Path, headers: dict[str, str], sleep: Sleep
) -> Generator[int, None, None]:
    """Append to ``part`` until it is whole; goes on where a connection broke."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(part, flags, 0o600), "r+b") as stream:
        done = stream.seek(0, os.SEEK_END)
        if done > remote.size:
            done = stream.truncate(stream.seek(0))
        failures, most = 0, done
        yield done
        while done < remote.size:
            extra = {"Accept-Encoding": "identity"}
            if done:
                extra["Range"] = f"bytes={done}-"
            response = yield from tell(ask(remote.url, "GET", {**headers, **extra}, sleep), done)
            with contextlib.closing(response):
                if done and response.status != 206:  # all of it again
                    done = stream.truncate(stream.seek(0))
                while done < remote.size:
                    try:
                        chunk = response.read1(min(CHUNK, remote.size - done))
                    except (OSError, http.client.HTTPException):
                        break  # the connection broke: ask for the rest
                    if not chunk:
                        break
                    stream.write(chunk)
                    done += len(chunk)
                    yield done
            yield done
            # whoever sends all of it again has to come further than before
            failures = 0 if done > most else failures + 1
            most = max(most, done)
            if failures >= TRIES:
                raise CheckpointError(
                    f"hub: expected {remote.size} B of {part.name.split('.')[0]}, got {done} "
                    f"before the connection broke {TRIES} times; what arrived is kept: try again"
                )
            if done < remote.size:
                stream.flush()
                yield from tell(pause(min(1.0, float(failures)), sleep), done)
        stream.flush()
        os.fsync(stream.fileno())


def tell(steps: Generator[None, None, Result], word: Word) -> Generator[Word, None, Result]:
    """The same steps, each of them telling ``word``."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
        yield word
