"""What a process that goes on by itself says, and when."""

from __future__ import annotations

import logging
import sys
import time


def to_stdout(logger: logging.Logger) -> None:
    """Have a logger write lines with their instants in UTC to the standard output."""
    handler = logging.StreamHandler(sys.stdout)
    form = logging.Formatter("%(asctime)sZ  %(levelname)-7s  %(message)s", "%Y-%m-%dT%H:%M:%S")
    form.converter = time.gmtime
    handler.setFormatter(form)
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
