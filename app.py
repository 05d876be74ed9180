"""``python app.py``: build the page and serve it.

``GRADIO_SERVER_NAME`` and ``GRADIO_SERVER_PORT`` choose where (default 127.0.0.1:7860);
``--help`` tells how to offer other checkpoints.
"""

import os
import sys

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from ditas_core.ui import UNUSABLE, Bench, build_app, launch_options, read_options

try:
    bench = Bench(read_options(sys.argv[1:] if __name__ == "__main__" else []))
    demo = build_app(bench)
except UNUSABLE as error:
    if __name__ != "__main__":
        raise
    sys.stderr.write(f"app.py: {error}\n")
    sys.exit(2)

if __name__ == "__main__":
    bench.warm()
    demo.launch(**launch_options())
