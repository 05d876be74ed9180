"""``python app.py``: build the page and serve it.

``GRADIO_SERVER_NAME`` and ``GRADIO_SERVER_PORT`` choose where (default 127.0.0.1:7860);
``--help`` tells how to offer other checkpoints.
"""

import atexit
import contextlib
import os
import signal
import sys

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
served = False


def end_quietly() -> None:
    """A thread in the middle of a computation would else abort the process as it ends."""
    if served:
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    atexit.register(end_quietly)  # the first one is the last to run: all is tidied up by then

from ditas_core.ui import UNUSABLE, Backend, build_app, launch_options, read_options  # noqa: E402

try:
    backend = Backend(read_options(sys.argv[1:] if __name__ == "__main__" else []))
    demo = build_app(backend)
except UNUSABLE as error:
    if __name__ != "__main__":
        raise
    sys.stderr.write(f"app.py: {error}\n")
    sys.exit(2)

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C does
    with contextlib.suppress(KeyboardInterrupt):
        backend.warm()
        demo.launch(**launch_options())
    served = True
