"""A run in a process of its own, which ends when its worker does.

Were it to go on, another worker would start the run again beside it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel to be killed with the worker, and become Prefect's engine."""
    if sys.platform == "linux":
        worker = os.environ.get("ROTA_WORKER_PID")
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if worker is not None and str(os.getppid()) != worker:
            sys.exit(1)  # it died before the kernel was asked
    os.execv(sys.executable, [sys.executable, "-m", "prefect.engine", *sys.argv[1:]])  # noqa: S606


if __name__ == "__main__":
    main()
