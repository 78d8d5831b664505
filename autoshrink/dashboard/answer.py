"""The answer under a reader's limits: the trial to ship, or what comes nearest; as parts of a page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from autoshrink.dashboard.headline import Headline, headline
from autoshrink.dashboard.markup import Markup, element
from autoshrink.dashboard.view import TargetView
from autoshrink.search.limits import merged
from autoshrink.search.words import describe
from autoshrink.target import Limits


@dataclass(frozen=True)
class Answer:
    """What comes of some limits.

    Attributes:
        headline: the trial to ship, or why there is none.
        limits: those that hold: the reader's, and the target's own where the reader set none.
    """

    headline: Headline
    limits: Limits

    @property
    def number(self) -> int | None:
        """Of the trial to ship."""
        return None if self.headline.chosen is None else self.headline.chosen.number


def answer_of(view: TargetView, asked: Limits) -> Answer:
    """The answer of one target; see `headline`."""
    own, _ = view.applicable(view.target.limits)
    return Answer(headline(view, asked), merged(asked, own))


def answer_markup(answer: Answer) -> Iterator[Markup]:
    """The trial to ship with what it gains and why it is that one; or why there is none."""
    found = answer.headline
    if found.chosen is None:
        if found.shortfall is None:
            yield element("p", "No pick yet", class_="eyebrow")
            yield element("p", found.sentence, class_="said")
        if found.unknown:
            yield element("p", found.unknown, class_="unknown")
        return
    yield element("p", "The pick", class_="eyebrow")
    yield element("h3", f"Trial {found.chosen.number}", class_="answer-title")
    yield element("p", describe(found.chosen.recipe), class_="answer-recipe")
    if found.gains:
        yield element(
            "div",
            [element("span", element("b", large), element("small", small)) for large, small in found.gains],
            class_="gains",
        )
    else:
        yield element("p", found.sentence, class_="said")
    if found.unknown:
        yield element("p", found.unknown, class_="unknown")
    yield element("details", element("summary", "Why this one"), element("p", *with_code(found.why), class_="why"))


def with_code(text: str) -> list[object]:
    """Words between backticks as code."""
    return [element("code", part) if place % 2 else part for place, part in enumerate(text.split("`"))]
