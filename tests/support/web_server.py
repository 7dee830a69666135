"""A web server on the loopback device over a folder, which says what a version of a file is called as real ones do."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class WebServer:
    """``uri`` is where the files of ``folder`` are; ``asked`` the methods of the requests that were answered."""

    def __init__(self, folder: Path, version: str) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), partial(_Handler, self.asked, version, directory=str(folder))
        )
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.uri = f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        """Leave; nobody answers at the address any more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def web_server(folder: Path, version: str = "Last-Modified") -> Iterator[WebServer]:
    """Serve a folder; ``version`` is the header that names a file's version: "ETag", "Last-Modified", or "" = none."""
    server = WebServer(folder, version)
    try:
        yield server
    finally:
        server.stop()


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, asked: list[str], version: str, *args: object, **more: object) -> None:
        self.asked, self.version = asked, version
        super().__init__(*args, **more)  # type: ignore[arg-type]

    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Last-Modified" or self.version == keyword:
            super().send_header(keyword, value)

    def end_headers(self) -> None:
        file = Path(self.translate_path(self.path))
        if self.version == "ETag" and file.is_file():
            self.send_header("ETag", f'"{hashlib.md5(file.read_bytes()).hexdigest()}"')
        self.asked.append(self.command)
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass
