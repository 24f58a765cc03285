"""A counter in front of Prefect's API that passes on bytes as they are, web sockets included.

A worker whose web sockets are refused asks for by HTTP what it would have heard through them.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from benchmarks.processes import free_port, wait_until
from benchmarks.proxy import METHODS, Counts

_REQUEST = re.compile(rb"(%s) /api(/[^ ?]*)\S* HTTP/1\.1\r\n" % "|".join(METHODS).encode())
_LINE = 2000
"""Bytes of a request's first line, at most, that may come in two pieces."""


@contextmanager
def counting(api: str) -> Iterator[tuple[str, Counts]]:
    """Yield an address that leads to `api`, and the calls that have passed there.

    It runs in a thread, so that the caller may wait for a process that calls it.
    """
    counts = Counts()
    port, there = free_port(), urlsplit(api)
    listening, over = threading.Event(), threading.Event()

    async def serve() -> None:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                up_reader, up_writer = await asyncio.open_connection(there.hostname, there.port)
                await asyncio.gather(
                    _pass(reader, up_writer, counts), _pass(up_reader, writer, None)
                )

        async with await asyncio.start_server(connected, "127.0.0.1", port):
            listening.set()
            while not over.is_set():  # noqa: ASYNC110 - told by another thread
                await asyncio.sleep(0.1)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    try:
        wait_until(listening.is_set, "the counter of calls", 10)
        yield f"http://127.0.0.1:{port}/api", counts
    finally:
        over.set()
        thread.join(timeout=10)


async def _pass(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counts: Counts | None
) -> None:
    rest = b""
    with suppress(OSError):
        while data := await reader.read(65536):
            if counts is not None:
                rest += data
                end = 0
                for found in _REQUEST.finditer(rest):
                    counts.add(found[1].decode(), found[2].decode())
                    end = found.end()
                rest = rest[end:][-_LINE:]
            writer.write(data)
            await writer.drain()
    with suppress(OSError):
        writer.close()
