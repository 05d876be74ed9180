"""What a process does to the network and to the file system, seen by Python's audit events.

DITAS_GUARD_LOG   file that gets one JSON line per event
DITAS_NO_NETWORK  any address but the loopback's is refused
DITAS_WRITABLE    folder outside of which opening files for writing is noted
"""

import json
import os
import sys

LOG = os.environ.get("DITAS_GUARD_LOG")
NO_NETWORK = bool(os.environ.get("DITAS_NO_NETWORK"))
WRITABLE = os.environ.get("DITAS_WRITABLE")
LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0", "::ffff:127.")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.mkdir": 0, "os.rename": 1, "os.remove": 0, "os.rmdir": 0, "os.truncate": 0,
           "os.link": 1, "os.symlink": 1}  # fmt: skip
HANDLE = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666) if LOG else None


def note(kind, *what):
    os.write(HANDLE, (json.dumps([kind, *map(str, what)]) + "\n").encode())


def outside(path):
    if isinstance(path, int) or not isinstance(path, str | bytes | os.PathLike):
        return False
    found = os.path.abspath(os.fsdecode(os.fspath(path)))
    return not found.startswith((WRITABLE.rstrip("/") + "/", "/dev/", "/proc/self/")) and (
        found != WRITABLE.rstrip("/")
    )


def watch(event, args):
    if NO_NETWORK and event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = args[1]
        if isinstance(address, tuple) and not str(address[0]).startswith(LOOPBACK):
            note("socket", event, address)
            raise OSError(f"no network here: {address}")
    elif NO_NETWORK and event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
        host = host.decode() if isinstance(host, bytes) else host
        if host and not str(host).startswith(LOOPBACK):
            note("socket", event, host)
            raise OSError(f"no network here: {host}")
    elif WRITABLE and event == "open":
        path, mode, flags = args
        writes = bool(flags & WRITES) if mode is None else any(c in mode for c in "wax+")
        if writes and outside(path):
            note("write", event, path)
    elif WRITABLE and event in CHANGES and outside(args[CHANGES[event]]):
        note("write", event, args[CHANGES[event]])


if HANDLE is not None:
    sys.addaudithook(watch)
