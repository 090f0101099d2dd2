"""``python -m cahp_plugin``: the command ``cahp``, for launchers that start a module, such as ``torchrun``."""

import sys

if not getattr(sys.flags, "safe_path", False):
    del sys.path[0]  # the current folder: a file in it must not stand in for a library

from cahp_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main())
