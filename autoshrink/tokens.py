"""What servers of autoshrink share: which addresses only this machine reaches, and tokens for the others."""

from __future__ import annotations

import ipaddress
import os
import secrets

from autoshrink.errors import ConfigError

SHORTEST_TOKEN = 16


def is_loopback(host: str) -> bool:
    """Whether an address, or the name `localhost`, is reached from this machine only.

    Args:
        host: without a port; IPv6 with or without brackets.
    """
    bare = host.removeprefix("[").removesuffix("]")
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return bare.lower().rstrip(".") == "localhost"


def url_host(host: str) -> str:
    """An address as it stands in a URL: IPv6 in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def token_of(variable: str | None) -> str:
    """The token in an environment variable; a new random one when no variable is named.

    Raises:
        ConfigError: `--token-env` names a variable whose value is too short, or holds what cannot be in a header.
    """
    if variable is None:
        return secrets.token_urlsafe(24)
    token = os.environ.get(variable, "")
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            [f"--token-env: ${variable} has {len(token)} characters; a token has {SHORTEST_TOKEN} or more, without "
             "spaces, such as `openssl rand -hex 24` gives"]
        )  # fmt: skip
    return token
