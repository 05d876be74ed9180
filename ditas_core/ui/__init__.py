"""The Gradio interface; thin, every number comes from the rooms below."""

from ..heap import keep_freed_memory
from ..threads import share_cores

share_cores()  # before torch is loaded: this package is a program, not a library
keep_freed_memory()

from ..checkpoints import CheckpointError  # noqa: E402
from .app import build_app, launch_options  # noqa: E402
from .serving.limits import LimitError  # noqa: E402
from .stored.catalogue import read_options  # noqa: E402
from .visitors.backend import Backend  # noqa: E402

UNUSABLE = (LimitError, CheckpointError)
"""What the operator has to mend before the page can start."""

__all__ = ["UNUSABLE", "Backend", "build_app", "launch_options", "read_options"]
