"""Where a page stands: its study and what its address asks for. The state of every control is in the address.

`/`                          all studies
`/devices`                   targets and devices
`/study/NAME/PAGE?a=1&b=2`   a page of a study; each control of the page is one name of the query
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlencode

STUDY = "study"


@dataclass(frozen=True)
class Place:
    """A page's address, read.

    Attributes:
        page: the page's name; empty for the list of studies.
        study: of which; empty for pages that are about none.
        asked: name of a control -> its value, as the address has it.
    """

    page: str
    study: str = ""
    asked: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, path: str, query: str) -> Place:
        """The place of an address; of an unknown one the page is empty."""
        parts = [unquote(part) for part in path.split("/") if part]
        asked = dict(parse_qsl(query.removeprefix("?")))
        if len(parts) == 3 and parts[0] == STUDY:
            return cls(parts[2], parts[1], asked)
        return cls(parts[0], asked=asked) if len(parts) == 1 else cls("", asked=asked)

    def get(self, name: str, default: str = "") -> str:
        """What the address asks for a control."""
        return self.asked.get(name, default)

    def number(self, name: str, default: int | None = None) -> int | None:
        """The same for a whole number; `default` where it is none."""
        text = self.asked.get(name, "")
        return int(text) if text.isdecimal() else default


def address(page: str, study: str = "", **asked: object) -> str:
    """The address of a page; what is None or empty is left out."""
    path = f"/{STUDY}/{quote(study, safe='')}/{page}" if study else f"/{page}"
    query = urlencode({name: value for name, value in asked.items() if value not in (None, "")})
    return f"{path}?{query}" if query else path


def control(name: str) -> dict[str, str]:
    """The id of a control whose `value` belongs in the address under `name`."""
    return {"type": "control", "name": name}
