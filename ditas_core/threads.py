"""How the threads of a processor wait for each other; imports nothing, torch least of all."""

import os
from collections.abc import MutableMapping

__all__ = ["CHOSEN_BY_USER", "share_cores"]

SPINS = "1000"
CHOSEN_BY_USER = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def share_cores(environment: MutableMapping[str, str] | None = None) -> bool:
    """Let OpenMP's threads sleep soon while they wait, unless the user has said how they wait.

    torch splits each product among threads that meet at its end. GNU's runtime
    lets whoever comes first spin (some 300,000 turns of a loop) before it
    sleeps: free on a quiet machine, ruinous where another program wants the
    core that the last thread needs. 1,000 turns cost little alone:
    ``ditas bench busy`` shows both.

    The runtime reads the environment as it is loaded, so this is called before
    torch is imported; by what a person starts, never by ``import ditas_core``.
    Processes started from here inherit it.

    Args:
        environment: to be changed in place; the process's own by default.

    Returns:
        Whether anything was set.
    """
    found = os.environ if environment is None else environment
    if any(name in found for name in CHOSEN_BY_USER):
        return False
    found["GOMP_SPINCOUNT"] = SPINS
    return True
