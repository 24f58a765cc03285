"""Vectors of what is searched for, from the embedder that made those of the documents."""

from __future__ import annotations

import asyncio
import logging
import time

from blocks.embedders import EMBEDDERS, Embedder, EmbedderError

logger = logging.getLogger("rota")

SECONDS = 5.0
"""How long a search waits for a vector before it goes by word alone."""
KEPT_SECONDS = 60.0
"""How long a block is taken to be as it was read."""


class Embedders:
    """The embedders of the documents, by the names that documents keep of them."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[Embedder, float]] = {}

    async def embed(self, name: str, text: str) -> list[float] | None:
        """Return the vector of a text; None where it cannot be had, and the log says why.

        Args:
            name: `type/block@space`, as a document keeps it.
            text: What is searched for.
        """
        reference, _, space = name.partition("@")
        try:
            async with asyncio.timeout(SECONDS):
                embedder = await self._embedder(reference)
                if embedder.space != space:
                    raise EmbedderError(f"it makes vectors of {embedder.space} by now")
                [vector] = await embedder.embed([text])
        except Exception as error:  # by word it can be found all the same
            said = f"{type(error).__name__}: {error}"
            logger.warning("The search goes by word, without %s: %s", reference, said[:500])
            return None
        return list(vector)

    async def _embedder(self, reference: str) -> Embedder:
        known = self._read.get(reference)
        if known is not None and time.monotonic() - known[1] < KEPT_SECONDS:
            return known[0]
        kind, _, block = reference.partition("/")
        # Whoever writes documents says what made them, and any other block is not theirs to name.
        if kind not in EMBEDDERS:
            raise EmbedderError(f"{kind} is no embedder; there are {', '.join(sorted(EMBEDDERS))}")
        found: Embedder = await EMBEDDERS[kind].aload(block)
        self._read[reference] = (found, time.monotonic())
        return found
