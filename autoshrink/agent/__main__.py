"""`python -m autoshrink.agent PORT`: an agent for one search, started by it over ssh; see `autoshrink.devices.ssh`.

Reads its token from the first line of standard input and ends when that does. Says `ready VERSION` on standard output.
"""

from __future__ import annotations

import sys

from autoshrink import __version__
from autoshrink.errors import AutoshrinkError

READY = "autoshrink agent ready"
TAKEN = 3


def main() -> None:
    """See the module."""
    try:
        from autoshrink.agent.guard import Rules
        from autoshrink.agent.serve import Settings, serve
    except ImportError as error:
        sys.exit(f"{error}; pip install 'autoshrink[agent]=={__version__}' into this Python")
    token = sys.stdin.buffer.readline().decode().strip()
    if not token:
        sys.exit("no token came on standard input")

    def ready(port: int) -> None:
        sys.stdout.write(f"{READY} {__version__} {port}\n")
        sys.stdout.flush()

    try:
        serve(Settings("127.0.0.1", int(sys.argv[1]), Rules(token)), ready, until_closed=True)
    except AutoshrinkError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(TAKEN)


if __name__ == "__main__":
    main()
