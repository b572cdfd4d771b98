"""`python -m ganaug`, which is also what torchrun starts."""

import os
import sys

from ganaug.cli import main
from ganaug.distributed import world_size


def run() -> None:
    """Run the command; of several processes each leaves without taking Python apart.

    Threads of gloo may still hold what belongs to Python, and end the process with an abort when they come for it after
    its end: torchrun would call a finished command failed, and start it again.
    """
    if world_size() == 1:
        main()
        return
    code: object = 1
    try:
        main()
    except SystemExit as leaving:
        code = leaving.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    run()
