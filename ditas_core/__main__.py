"""``python -m ditas_core``: see ``ditas_core.cli``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
