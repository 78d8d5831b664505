"""A link that one browser may open, and the page behind it: who may ask, which task is whose, what disturbed it.

Nothing here knows of HTTP. The page asks for a task with the number of the one it did last. A task stays until its
answer is there, so one whose reply was lost on the way is given again, and an answer handed in twice counts once.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from autoshrink.backends.page_frames import Buffer, Frame, pack, unpack
from autoshrink.backends.page_http import same
from autoshrink.devices.base import DeviceGone

DISTURBANCES = {
    "hidden": "the page was in the background, or the screen off",
    "suspended": "the device stood still for a while, as it does when the screen goes off",
    "network": "the network was lost for a while",
}
"""What a page may say of the time in which it did a task."""
PAGE_NAME = re.compile(r"[0-9a-f]{16}")
POLL_S = 10.0
"""The page is told after so many seconds that there is still nothing to do: a lost network is noticed by that."""
SILENT_S = 25.0
"""A page that has said nothing for longer is not there now."""
RELOAD_S = 5.0
"""A page that was closed may be opened again for so long: that is what a reload looks like."""
FORGOTTEN_S = 300.0
"""A page that has been silent for longer will not come back: the link is for another one."""


class Refused(Exception):
    """What a browser asks for is not given to it."""


class Visit:
    """One page in a browser, from its first word on.

    Attributes:
        facts: what it says of itself; of any form, since anybody might say it.
        agent: what the browser calls itself.
        disturbed: what disturbed it since that was last emptied; keys of `DISTURBANCES`.
        hidden: whether it is in the background now.
        released: numbers of sessions and calls that it is to forget.
    """

    def __init__(self, page: str, facts: Mapping[str, Any], agent: str) -> None:
        self.page = page
        self.facts = facts
        self.agent = agent
        self.disturbed: set[str] = set()
        self.hidden = False
        self.released: list[int] = []
        self.heard = time.monotonic()
        self.closed: float | None = None
        self.over = ""
        self.is_told = False
        self.number = 0
        self.task: tuple[dict[str, Any], Sequence[Buffer]] | None = None
        self.answer: Frame | None = None

    def absence(self) -> str:
        """Why it is not there now; empty when it is."""
        if self.over:
            return self.over
        if self.closed is not None:
            return "the page was closed"
        if self.hidden:
            return "the page is in the background, or the screen is off: bring it to the front and keep the screen on"
        if time.monotonic() - self.heard > SILENT_S:
            return "the page is silent: the screen is off, the network lost, or it is still busy with what came before"
        return ""

    def is_lost(self) -> bool:
        """Whether it will not come back."""
        silent = time.monotonic() - self.heard
        closed = self.closed is not None and time.monotonic() - self.closed > RELOAD_S
        return bool(self.over) or closed or silent > FORGOTTEN_S


class Link:
    """What may be opened once, and what is asked of the page that it opened. For many threads.

    Args:
        about: what the page shows: `target`, `threads`.

    Attributes:
        token: in the link's path.
    """

    def __init__(self, about: Mapping[str, Any]) -> None:
        self._about = about
        self._changed = threading.Condition()
        self._cookie = ""
        self._former: set[str] = set()
        self._visit: Visit | None = None
        self._ended = ""
        self._done = 0
        self.refusal: Callable[[Visit], str] = lambda _visit: ""
        self.token = secrets.token_urlsafe(16)

    # Of the server: what a browser asks.

    def is_known(self, token: str) -> bool:
        """Whether it is that of this link."""
        return same(token, self.token)

    def is_former(self, token: str) -> bool:
        """Whether it was, before the page of that time was closed."""
        return token in self._former

    def open(self, cookie: str) -> str:
        """The cookie of the browser that opens the link, for the first one that does.

        Raises:
            Refused: another one did.
        """
        with self._changed:
            if not self._cookie:
                self._cookie = secrets.token_urlsafe(16)
            elif not same(cookie, self._cookie):
                raise Refused
            return self._cookie

    def admits(self, cookie: str) -> bool:
        """Whether it is the cookie of the browser that opened the link."""
        return bool(self._cookie) and same(cookie, self._cookie)

    def exchange(
        self, page: str, number: int, answer: bytes, is_hidden: bool, disturbed: Collection[str], agent: str
    ) -> bytes:
        """Takes the answer to the task `number`, of 0 what the page says of itself, and gives the next task.

        Waits for one for `POLL_S` seconds.

        Raises:
            ValueError: what is handed in is no frame, or not of a page.
        """
        with self._changed:
            visit = self._visit
            if visit is None or visit.page != page:
                if number or not answer:
                    return self._reply("replaced")
                visit = self._begin(page, unpack(answer)[0], agent)
                visit.hidden = is_hidden
                return self._reply("wait", refused=self.refusal(visit))
            visit.heard = time.monotonic()
            visit.closed = None
            visit.hidden = is_hidden
            visit.disturbed |= set(disturbed) & set(DISTURBANCES)
            if visit.task and number == visit.number and answer:
                visit.task, visit.answer = None, unpack(answer)
            self._changed.notify_all()
            done = self._done
            self._changed.wait_for(lambda: self._has_news(visit, is_hidden) or self._done != done, POLL_S)
            visit.heard = time.monotonic()
            if self._visit is not visit:
                return self._reply("replaced")
            if self._ended:
                visit.is_told = True
                self._changed.notify_all()
                return self._reply("end")
            if visit.task is None:
                return self._reply("wait", refused=self.refusal(visit))
            task, buffers = visit.task
        return pack({**self._shown(), **task}, buffers)

    def tell(self, page: str, what: str) -> None:
        """The page went to the background (`hidden`), came back (`shown`), or is being closed (`closing`)."""
        with self._changed:
            visit = self._visit
            if visit is None or visit.page != page:
                return
            visit.heard = time.monotonic()
            if what == "closing":
                visit.closed = visit.heard
            elif what == "shown":
                visit.closed, visit.hidden = None, False
            else:
                # Also of a page that is being closed.
                visit.hidden = True
                visit.disturbed.add("hidden")
            self._changed.notify_all()

    # Of the device: what it asks of the page.

    def visit(self) -> Visit:
        """The page that is open and in front.

        Raises:
            DeviceGone: there is none.
        """
        with self._changed:
            if self._ended:
                raise DeviceGone(self._ended, disturbed=True)
            if self._visit is None:
                raise DeviceGone("no page is open", disturbed=True)
            why = self._visit.absence()
            if why:
                raise DeviceGone(why, disturbed=True)
            return self._visit

    def is_free(self) -> bool:
        """Whether no browser has opened it yet."""
        return not self._cookie

    def is_used_up(self) -> bool:
        """Whether the page that the link opened will not come back."""
        with self._changed:
            return self._visit is not None and self._visit.is_lost()

    def renew(self) -> None:
        """Another link, for another browser; the one before opens nothing any more."""
        with self._changed:
            self._former.add(self.token)
            self.token = secrets.token_urlsafe(16)
            self._cookie = ""
            if self._visit is not None:
                self._visit.over = self._visit.over or "the page was closed"
                self._visit = None
            self._changed.notify_all()

    def ask(
        self, visit: Visit, task: Mapping[str, Any], buffers: Sequence[Buffer], limit_s: float, is_timed: bool
    ) -> Frame | None:
        """What the page answers; None when it does not within `limit_s` seconds.

        Args:
            visit: of the page.
            task: for it.
            buffers: of the task.
            limit_s: seconds to wait.
            is_timed: whether what disturbs the page spoils the answer.

        Raises:
            DeviceGone: it was closed or opened anew, or disturbed.
        """
        with self._changed:
            visit.number += 1
            visit.answer = None
            visit.task = ({**task, "number": visit.number}, buffers)
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: visit.answer or self._loss(visit, is_timed), limit_s)
                loss = self._loss(visit, is_timed)
                if loss:
                    raise loss
                return visit.answer
            finally:
                # An answer that comes later is to a number that nobody waits for.
                visit.task = visit.answer = None

    def count(self) -> None:
        """One more measurement is done, which the page shows."""
        with self._changed:
            self._done += 1
            self._changed.notify_all()

    def end(self, why: str, patience_s: float = 0.0) -> None:
        """Tells whoever waits for the page that it is over, and waits until the page is told as well if it is there."""
        with self._changed:
            self._ended = self._ended or why
            self._changed.notify_all()
            visit = self._visit
            if visit is not None and not visit.absence():
                self._changed.wait_for(lambda: visit.is_told or visit.absence(), patience_s)

    def _begin(self, page: str, facts: Mapping[str, Any], agent: str) -> Visit:
        if self._visit is not None:
            self._visit.over = "the page was reloaded, or opened in another tab"
        self._visit = Visit(page, facts, agent)
        self._changed.notify_all()
        return self._visit

    def _has_news(self, visit: Visit, was_hidden: bool) -> bool:
        came_back = was_hidden and not visit.hidden
        return bool(visit.task or self._ended or came_back) or self._visit is not visit

    def _loss(self, visit: Visit, is_timed: bool) -> DeviceGone | None:
        """Why no answer of the page counts any more."""
        if self._ended:
            return DeviceGone(self._ended, disturbed=True)
        if visit.closed is not None:
            return DeviceGone("the page was closed", disturbed=True)
        if visit.over:
            # A page that a person closes says so before; one that ran out of memory, for one, does not.
            return DeviceGone(visit.over, disturbed=False)
        if is_timed and (visit.disturbed or visit.hidden):
            first = next((name for name in DISTURBANCES if name in visit.disturbed), "hidden")
            return DeviceGone(f"{DISTURBANCES[first]} while it was measured", disturbed=True)
        return None

    def _shown(self) -> dict[str, Any]:
        return {**self._about, "done": self._done}

    def _reply(self, task: str, **more: object) -> bytes:
        return pack({**self._shown(), "task": task, **more})
