"""``python app.py``: build the page and serve it.

``GRADIO_SERVER_NAME`` and ``GRADIO_SERVER_PORT`` choose where (default 127.0.0.1:7860);
``--help`` tells how to offer other checkpoints.
"""

import os
import signal
import sys

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from ditas_core.ui import Bench, build_app, launch_options, read_options

bench = Bench(read_options(sys.argv[1:] if __name__ == "__main__" else []))
demo = build_app(bench)

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: tidied up
    bench.warm()
    demo.launch(**launch_options())
