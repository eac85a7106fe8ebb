"""``python -m percepnet`` is the command ``percepnet``."""

import sys

from percepnet.cli import main

if __name__ == "__main__":
    sys.exit(main())
