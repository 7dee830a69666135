"""A proxy before an S3 server that behaves as other stores, and the networks before them, do."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import fsspec
import pytest


@dataclass
class Exchange:
    """A request on its way, and its answer once there is one."""

    number: int  # of the request, from 1
    method: str
    headers: dict[str, str]
    status: int = 0
    body: bytes = b""
    sent: int | None = None  # bytes of the body that arrive before the connection breaks; -1: not even a status

    def answer(self, status: int, code: str) -> None:
        """Answer as S3 does, without asking it."""
        self.status, self.body = status, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()


Trick = Callable[[Exchange], None]  # called before a request is passed on, and again with its answer


def answers_409(exchange: Exchange) -> None:
    """A refused creation is a conflict, as on AWS while another request for the key is under way."""
    if exchange.status == 412:
        exchange.answer(409, "ConditionalRequestConflict")


def answers_a_plain_412(exchange: Exchange) -> None:
    """A refused creation is told by the status alone."""
    if exchange.status == 412:
        exchange.body = b""


def ignores_conditions(exchange: Exchange) -> None:
    """Every creation succeeds."""
    exchange.headers = {name: value for name, value in exchange.headers.items() if name.lower() != "if-none-match"}


def fails_and_breaks_off(exchange: Exchange) -> None:
    """Of 20 requests two are refused, one is done and never answered, and of one half the answer arrives."""
    if exchange.status == 0 and exchange.number % 10 == 3:
        exchange.answer(503, "SlowDown")
    elif exchange.status and exchange.number % 20 == 8:
        exchange.sent = -1
    elif exchange.status and exchange.number % 20 == 18:
        exchange.sent = len(exchange.body) // 2


@contextmanager
def s3_proxy(upstream: str, trick: Trick) -> Iterator[str]:
    """Play a trick on all S3 clients of the body; yields the proxy's address.

    Args:
        upstream: address of the server, ``http://host:port``.
        trick: what happens to requests and answers.
    """
    numbers, counting = iter(range(1, 10**9)), threading.Lock()
    # A store creates a key at one moment; moto looks whether it is there, then puts it, and lets two at once both succeed.
    creating = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            with counting:
                exchange = Exchange(next(numbers), self.command, dict(self.headers.items()))
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            trick(exchange)
            headers: list[tuple[str, str]] = []
            if not exchange.status:
                server = http.client.HTTPConnection(upstream.removeprefix("http://"), timeout=60)
                with creating if exchange.method == "PUT" else nullcontext():
                    server.request(exchange.method, self.path, body, exchange.headers)
                    answer = server.getresponse()
                    exchange.status, exchange.body = answer.status, answer.read()
                headers = [(n, v) for n, v in answer.getheaders() if n.lower() not in _OF_THE_CONNECTION]
                trick(exchange)
                if self.command == "HEAD":
                    headers.append(("Content-Length", answer.getheader("Content-Length") or "0"))
                server.close()
            self._send(exchange, headers)

        def _send(self, exchange: Exchange, headers: list[tuple[str, str]]) -> None:
            if exchange.sent is not None:
                self.close_connection = True
            if exchange.sent == -1:
                return
            self.send_response_only(exchange.status)
            if self.command != "HEAD":
                headers = [*headers, ("Content-Length", str(len(exchange.body)))]
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":  # whose answer has no body: the client would read one as its next answer
                self.wfile.write(exchange.body if exchange.sent is None else exchange.body[: exchange.sent])

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", address)
        fsspec.filesystem("s3").clear_instance_cache()
        try:
            yield address
        finally:
            fsspec.filesystem("s3").clear_instance_cache()
            server.shutdown()
            server.server_close()
            thread.join()


_OF_THE_CONNECTION = ("content-length", "transfer-encoding", "connection", "keep-alive")
