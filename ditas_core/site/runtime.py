"""The files of onnxruntime-web: one pinned release, from the npm registry, checked and kept.

They are copied into a site when it is made, so that a visitor's browser asks nobody else for them.
No Node.js is needed. The registry is npm's public one unless ``npm_config_registry`` names another,
as npm itself reads it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tarfile
import urllib.request
from pathlib import Path

from ..writing import whole_folder

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
INTEGRITY = (
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02V"
    "b7QmRMDs1SigqR4CXAfKYQ=="
)
SCRIPT, GLUE, BINARY = (
    "ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm",
)  # fmt: skip
FILES = (SCRIPT, GLUE, BINARY)
REGISTRY = "https://registry.npmjs.org"
VARIABLES = ("npm_config_registry", "NPM_CONFIG_REGISTRY")
MOST_BYTES = 2**26
"""Of the archive, and of a file in it."""
WAIT_S = 60.0


class RuntimeMissing(OSError):
    """The runtime's files are not there and cannot be fetched."""


def registry() -> str:
    """Where packages are asked for, without a slash at its end."""
    named = next((os.environ[name] for name in VARIABLES if os.environ.get(name)), REGISTRY)
    return named.rstrip("/")


def fetch_runtime(cache: Path, archive: Path | None = None) -> Path:
    """A folder with ``FILES``: those of ``archive``, or fetched unless ``cache`` has them already.

    archive  what ``npm pack onnxruntime-web@VERSION`` leaves, where there is no network

    Raises:
        RuntimeMissing: no network, or an archive other than the pinned one.
    """
    folder = cache / f"{PACKAGE}-{VERSION}"
    if archive is None and all((folder / name).is_file() for name in FILES):
        return folder
    found = unpacked(check_integrity(download() if archive is None else archive.read_bytes()))
    with whole_folder(folder, replaces=True) as work:
        for name, content in found.items():
            (work / name).write_bytes(content)
    return folder


def download() -> bytes:
    """The package's archive.

    Raises:
        RuntimeMissing: it cannot be had.
    """
    address = f"{registry()}/{PACKAGE}/-/{PACKAGE}-{VERSION}.tgz"
    if not address.startswith(("https://", "http://")):
        raise RuntimeMissing(f"{VARIABLES[0]}: expected the address of a registry, got {address}")
    try:
        with urllib.request.urlopen(address, timeout=WAIT_S) as answer:
            found: bytes = answer.read(MOST_BYTES)
    except OSError as error:
        raise RuntimeMissing(
            f"{PACKAGE}: expected to fetch version {VERSION} from the npm registry, got: {error}; "
            f"without a network pass the archive of `npm pack {PACKAGE}@{VERSION}`"
        ) from error
    return found


def check_integrity(archive: bytes) -> bytes:
    """The archive itself.

    Raises:
        RuntimeMissing: it is another one.
    """
    got = "sha512-" + base64.b64encode(hashlib.sha512(archive).digest()).decode()
    if got != INTEGRITY:
        raise RuntimeMissing(
            f"{PACKAGE}: expected the archive of version {VERSION} with {INTEGRITY[:20]}..., "
            f"got {len(archive)} bytes with {got[:20]}..."
        )
    return archive


def unpacked(archive: bytes) -> dict[str, bytes]:
    """``FILES`` by name; nothing else is read, nothing is written."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for name in FILES:
            member = tar.extractfile(f"package/dist/{name}")
            if member is None:
                raise RuntimeMissing(f"{PACKAGE}: expected dist/{name} in the archive, found none")
            found[name] = member.read(MOST_BYTES)
    return found
