"""The trials of a front in a report, each folded up: as much of them as the size of the file allows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from autoshrink.dashboard.headline import Headline
from autoshrink.dashboard.markup import Markup, element
from autoshrink.dashboard.palette import Palette
from autoshrink.dashboard.report_pairs import MOST_PAIRED, pairs_section
from autoshrink.dashboard.trial_block import Block, Drawing, Listing, Part, table_of
from autoshrink.dashboard.trial_page import TrialPage, trial_page
from autoshrink.dashboard.trial_summary import badges, gains, reason, recipe_json
from autoshrink.dashboard.view import TargetView
from autoshrink.records import StudyFolder
from autoshrink.search.words import describe
from autoshrink.types import TrialRecord

OF_ALL = ("environment",)
"""Blocks that say of each trial what the report says of the study."""
PLAIN = ("figures",)
"""What is always shown of a trial, however little room is left."""
MOST_TABLE_ROWS = 60
"""Longer tables that stand for a figure are left to the dashboard."""
_MORE = "Some trials say less here than "


@dataclass
class Room:
    """How many bytes a report may still grow."""

    left: int

    def takes(self, size: int) -> bool:
        """Whether there is room for `size` bytes, which are taken then."""
        fits = size <= self.left
        self.left -= size if fits else 0
        return fits


@dataclass(frozen=True)
class Details:
    """The folded trials of one target.

    Attributes:
        markup: of all of them; empty where there are none.
        figures: id of an element -> figure as JSON, for a light page.
    """

    markup: Markup
    figures: Mapping[str, str]


def trial_details(
    study: StudyFolder, view: TargetView, answer: Headline, place: int, palette: Palette, room: Room
) -> Details:
    """Any two of the trials nearest to the chosen one side by side, and the trials of the front with the chosen one.

    What is chosen has everything; the others, beginning with its neighbours, as much as there is room for: first
    without their figures and pictures, then with their figures against the baseline alone.

    Args:
        study: of the target.
        view: of the target.
        answer: what it came to.
        place: of the target among those of the study.
        palette: of a light page.
        room: of the report; what is shown is taken from it.
    """
    shown = _shown(view, answer.chosen)
    if not shown:
        return Details(Markup(""), {})
    pages = {record.number: trial_page(study, view, record, palette) for record in shown}
    # What is always shown has its room before anything more of any trial.
    made = {number: _folded(page, PLAIN, False, view, answer.chosen, place) for number, page in pages.items()}
    room.left -= sum(folded.size for folded in made.values())
    nearest = _nearest_first(shown, answer.chosen)
    pairs = pairs_section(study, view, [record for record in shown if record in nearest[:MOST_PAIRED]])
    if not room.takes(len(pairs.encode())):
        pairs = Markup("")
    for record in nearest:
        plain = made[record.number]
        for with_figures in (True, False):
            folded = _folded(pages[record.number], None, with_figures, view, answer.chosen, place)
            if room.takes(folded.size - plain.size):
                made[record.number] = folded
                break
    figures = {name: text for folded in made.values() for name, text in folded.figures.items()}
    listed = [made[record.number].markup for record in shown]
    cut = any(folded.is_cut for folded in made.values())
    note = element("p", _MORE, element("code", "autoshrink dashboard"), " has.", class_="note") if cut else None
    markup = element(
        "div",
        element("h3", "The trials behind it" if view.is_scored else "The trials"),
        pairs,
        listed,
        note,
        class_="trials",
    )
    return Details(markup, figures)


def _shown(view: TargetView, chosen: TrialRecord | None) -> list[TrialRecord]:
    members = list(view.members)
    if chosen is not None and chosen not in members:
        members.insert(0, chosen)
    return members


def _nearest_first(shown: list[TrialRecord], chosen: TrialRecord | None) -> list[TrialRecord]:
    middle = shown.index(chosen) if chosen is not None else 0
    order = sorted(range(len(shown)), key=lambda at: abs(at - middle))
    return [shown[at] for at in order]


@dataclass(frozen=True)
class _Folded:
    markup: Markup
    figures: Mapping[str, str]
    is_cut: bool

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.markup.encode()) + sum(len(text.encode()) for text in self.figures.values())


def _folded(
    page: TrialPage,
    names: Collection[str] | None,
    with_figures: bool,
    view: TargetView,
    chosen: TrialRecord | None,
    place: int,
) -> _Folded:
    """A trial with the blocks of these names; None: with all."""
    blocks = [block for block in page.blocks if block.name not in OF_ALL and (names is None or block.name in names)]
    record = page.record
    figures: dict[str, str] = {}

    def drawn(part: Drawing) -> Markup | None:
        if not with_figures:
            return None
        name = f"trial-{place}-{record.number}-{part.name}"
        figures[name] = str(part.figure.to_json())
        return _figure(name, part)

    sections = [_section(block, drawn, with_figures) for block in blocks]
    markup = element(
        "details",
        element(
            "summary",
            f"Trial {record.number}: {describe(record.recipe)}",
            [" ", element("span", "chosen", class_="badge pick")] if record is chosen else None,
        ),
        badges(record, view, None),
        reason(record),
        gains(record, view),
        sections,
        element("details", element("summary", "Recipe as JSON"), element("pre", recipe_json(record))),
        element("pre", page.pick) if page.pick else None,
        class_="folded",
        data_trial=record.number,
    )
    return _Folded(markup, figures, names is not None or not with_figures)


def _section(block: Block, drawn: Callable[[Drawing], Markup | None], with_pictures: bool) -> Markup:
    return element(
        "div",
        element("h4", block.title),
        [_row(part, drawn) for part in block.parts if with_pictures or not _has_pictures(part)],
        class_="block",
    )


def _has_pictures(part: Part | tuple[Part, ...]) -> bool:
    return isinstance(part, str) and "<img" in part


def _row(part: Part | tuple[Part, ...], drawn: Callable[[Drawing], Markup | None]) -> Markup | None:
    if isinstance(part, tuple):
        return element("div", [_row(each, drawn) for each in part], class_="pair")
    if isinstance(part, Drawing):
        return drawn(part)
    return part.markup if isinstance(part, Listing) else part


def _figure(name: str, part: Drawing) -> Markup:
    table = table_of(part.table, part.label) if len(part.table.rows) <= MOST_TABLE_ROWS else None
    return element(
        "figure",
        element("div", element("div", class_="r-tools"), class_="r-head"),
        element("div", id=name, class_="plot", role="group", aria_label=part.label),
        element("figcaption", part.caption) if part.caption else None,
        element("details", element("summary", "As a table"), table) if table else None,
    )


def figures_of(details: Iterable[Details]) -> Iterator[tuple[str, str]]:
    """All figures of all targets."""
    for each in details:
        yield from each.figures.items()
