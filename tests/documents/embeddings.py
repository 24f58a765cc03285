"""A server that answers as OpenAI documents its embeddings API, and fails on demand."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

KEY = "sk-nobody-may-see"


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class EmbeddingsServer:
    """A server of OpenAI's embeddings API, whose vectors tell the length of their texts.

    `faults` holds what goes wrong with the next requests: a status, with headers; `cut`; `silent`;
    or what changes the answer.
    """

    address: str = ""
    dimensions: int = 3
    requests: list[Request] = field(default_factory=list)
    faults: list[Any] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await self._read(reader):
            self.requests.append(request)
            fault = self.faults.pop(0) if self.faults else None
            if fault == "silent":
                await self.released.wait()
            if fault in ("silent", "cut"):
                break
            self._answer(writer, request, fault)
        writer.close()

    def _answer(self, writer: asyncio.StreamWriter, request: Request, fault: Any) -> None:
        status, headers, body = 200, {}, self.embed(request.body)
        if isinstance(fault, tuple):
            status, headers = fault
            said = f"Incorrect API key provided: {KEY}"
            body = {"error": {"message": said, "type": "some_error", "param": None, "code": None}}
        elif fault is not None:
            body = fault(body)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"{name}: {value}" for name, value in headers.items()]
        head = [f"HTTP/1.1 {status} Told So", f"Content-Length: {len(content)}", *lines, "", ""]
        writer.write("\r\n".join(head).encode() + content)

    def embed(self, body: dict[str, Any]) -> dict[str, Any]:
        length = body.get("dimensions", self.dimensions)
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": [float(len(text)), *[0.5] * (length - 1)],
            }
            for index, text in enumerate(body["input"])
        ]
        usage = {"prompt_tokens": 8, "total_tokens": 8}
        return {"object": "list", "data": data, "model": body["model"], "usage": usage}

    async def _read(self, reader: asyncio.StreamReader) -> Request | None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().strip()
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
        return Request(first.split(" ")[1], headers, json.loads(body))
