"""Serves this package to a browser on this machine: `python serve.py [PORT]`. Standard library only.

The two headers isolate the page from other origins; without them a browser gives it one thread.
"""

from __future__ import annotations

import functools
import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(SimpleHTTPRequestHandler):
    """Files of the package, with the headers of cross-origin isolation."""

    extensions_map = {  # noqa: RUF012 - as the class it comes from has it
        **SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        """Adds the headers to every answer, and one that has a changed file fetched again."""
        self.send_header("Cache-Control", "no-store")
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


def main() -> None:
    """Serves until it is interrupted."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    folder = str(Path(__file__).resolve().parent)
    server = ThreadingHTTPServer(("127.0.0.1", port), functools.partial(Handler, directory=folder))
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}/web/index.html\n")
    sys.stdout.flush()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


if __name__ == "__main__":
    main()
