"""As much of S3's protocol as it takes to put a file and to read it back, served on 127.0.0.1 from memory."""

from __future__ import annotations

import http.server
import io
import threading
from typing import IO
from urllib.parse import parse_qs, unquote, urlsplit

XML = "<?xml version='1.0' encoding='UTF-8'?>"
DATE = "Sat, 01 Jan 2000 00:00:00 GMT"


def _unchunked(source: IO[bytes]) -> bytes:
    """Pieces, each behind a line with its size, joined."""
    whole = b""
    while size := int(source.readline().partition(b";")[0], 16):
        whole += source.read(size)
        source.readline()
    return whole


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"ETag": '"x"', "Last-Modified": DATE, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _asked(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        return unquote(parts.path), parse_qs(parts.query, keep_blank_values=True)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = _unchunked(self.rfile)
            self.rfile.readline()
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        signed = "aws-chunked" in self.headers.get("Content-Encoding", "")
        return _unchunked(io.BytesIO(data)) if signed else data

    def do_GET(self) -> None:
        content = self.server.objects.get(self._asked()[0])
        if content is None:
            self._answer(404, f"{XML}<Error><Code>NoSuchKey</Code></Error>".encode())
        elif span := self.headers.get("Range"):
            first, last = span.removeprefix("bytes=").split("-")
            start, stop = int(first), min(int(last), len(content) - 1) + 1
            self._answer(206, content[start:stop], Content_Range=f"bytes {start}-{stop - 1}/{len(content)}")
        else:
            self._answer(200, content)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        key, query = self._asked()
        if "partNumber" in query:
            self.server.parts[key, int(query["partNumber"][0])] = self._body()
        else:
            self.server.objects[key] = self._body()
        self._answer(200)

    def do_POST(self) -> None:
        (key, query), _ = self._asked(), self._body()
        if "uploads" in query:
            kind, said = "InitiateMultipartUploadResult", "<UploadId>1</UploadId>"
        else:
            numbers = sorted(number for name, number in self.server.parts if name == key)
            self.server.objects[key] = b"".join(self.server.parts[key, number] for number in numbers)
            kind, said = "CompleteMultipartUploadResult", '<ETag>"x"</ETag>'
        self._answer(200, f"{XML}<{kind}>{said}</{kind}>".encode())

    def log_message(self, *_: object) -> None:
        pass


def serve() -> http.server.ThreadingHTTPServer:
    """A server with ``objects`` (path -> content), running until it is shut down."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.objects, server.parts = {}, {}
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server
