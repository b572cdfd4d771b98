"""Work in a process that is killed with no warning; for processes of their own, since it forks."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable


def killed_after(seconds: float, work: Callable[[], object]) -> bool:
    """Return whether `work` was killed, after so many seconds; or False, if it was done before."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as problem:
            print(repr(problem), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, "an attempt went wrong"
    return False
