"""How the documents of many projects are embedded when the embedder may be away."""

from collections.abc import Sequence
from dataclasses import dataclass

from blocks.embedders import Embedder, EmbedderUnavailable, Vector

MOST_FAILURES = 5
"""So many projects in a row find no embedder; then it is not asked any more."""


@dataclass
class Named:
    """An embedder, and the name that documents keep of it.

    Attributes:
        name: `type/block@space`; when the block is given another model, it is another name.
        embedder: The embedder.
        failures: How many projects in a row it was away for; once it was, never less than 1.

    """

    name: str
    embedder: Embedder
    failures: int = 0

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return one vector a text; an embedder that is away is waited for once, and not again.

        Raises:
            EmbedderError: There are none.

        """
        if self.failures >= MOST_FAILURES:
            raise EmbedderUnavailable(
                f"The embedder was away for {self.failures} projects in a row, and is not asked "
                "any more in this run."
            )
        try:
            vectors = await self.embedder.embed(texts, patient=not self.failures)
        except EmbedderUnavailable:
            self.failures += 1
            raise
        self.failures = min(self.failures, 1)
        return vectors
