"""A fake OpenAI-compatible endpoint on this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Chat = list[dict[str, str]]


@dataclass
class ChatServer:
    """Answers each request with `answer(chat)`, or with the next of `statuses`, if there is one left."""

    answer: Callable[[Chat], str]
    url: str = ""
    statuses: list[int] = field(default_factory=list)
    body: bytes | None = None
    """Sent instead of an answer."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    """Authorization header of each request."""


@contextmanager
def chat_server(answer: Callable[[Chat], str]) -> Iterator[ChatServer]:
    """Runs the endpoint inside a `with` block."""
    state = ChatServer(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.requests.append({**request, "path": self.path})
            state.keys.append(self.headers.get("Authorization"))
            status = state.statuses.pop(0) if state.statuses else 200
            content = {
                "choices": [{"message": {"role": "assistant", "content": state.answer(request["messages"])}}],
                "usage": {"prompt_tokens": 10, "completion_tokens": 2},
            }
            body = json.dumps(content).encode() if state.body is None else state.body
            self.send_response(status)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
