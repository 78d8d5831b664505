"""The samples whose answer flipped between the baseline and a trial, with their pictures where the study keeps them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from autoshrink.dashboard.formatting import counted
from autoshrink.dashboard.markup import Markup, element
from autoshrink.dashboard.trial_block import Listing, Part, Rows, note
from autoshrink.dashboard.trial_classes import Answers, Ints

SHOWN = 18
"""Samples of each kind that are shown; the file has all."""


def flips(answers: Answers) -> Iterator[Part]:
    """What went from right to wrong, then what went from wrong to right."""
    if answers.before is None:
        return
    lost, gained = answers.lost(), answers.gained()
    yield element(
        "p",
        element("b", f"{counted(len(lost), 'sample')} of {len(answers.truth):,} went from right to wrong"),
        f", {len(gained)} from wrong to right.",
        class_="why",
    )
    for name, title, rows in (
        ("lost", "Right before, wrong now", lost),
        ("gained", "Wrong before, right now", gained),
    ):
        if len(rows):
            yield Listing(name, _gallery(answers, title, rows), title.lower(), _rows(answers, rows))


def _gallery(answers: Answers, title: str, rows: Ints) -> Markup:
    order = _spread(answers, rows)
    cards = [_card(answers, int(sample)) for sample in order[:SHOWN]]
    more = note(f"{SHOWN} of {len(rows)}; the CSV file lists all.") if len(rows) > SHOWN else None
    return element("div", element("h4", title), element("ul", cards, class_="flips"), more)


def _spread(answers: Answers, rows: Ints) -> Ints:
    """Those with a picture first, and of each true class one before a second of any."""
    pictures = 0 if answers.val.pictures is None else len(answers.val.pictures)
    seen: dict[tuple[int, bool], int] = {}
    keys = []
    for sample in rows:
        true, has_none = int(answers.truth[sample]), bool(sample >= pictures)
        turn = seen[true, has_none] = seen.get((true, has_none), 0) + 1
        keys.append((has_none, turn, true, int(sample)))
    return np.array([key[-1] for key in sorted(keys)], np.int64)


def _card(answers: Answers, sample: int) -> Markup:
    name = answers.val.class_name
    before = int(answers.before[sample]) if answers.before is not None else -1
    true, given = name(int(answers.truth[sample])), name(int(answers.given[sample]))
    alt = f"Sample {sample}: {true}, taken for {given} now, for {name(before)} by the baseline"
    pictures = answers.val.pictures
    if pictures is not None and sample < len(pictures):
        shown = element("img", src=png_uri(pictures[sample]), alt=alt)
    else:
        shown = element("span", f"no picture: sample {sample}", class_="no-picture")
    wrong = name(before) if given == true else given
    return element(
        "li", shown, element("span", element("b", true), element("span", f"not {wrong}"), class_="words"), title=alt
    )


def png_uri(picture: npt.NDArray[np.uint8]) -> str:
    """A picture, uint8 [h, w, 1 or 3], as the address of a PNG that holds all of it."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(stream, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _rows(answers: Answers, rows: Ints) -> Rows:
    name, before = answers.val.class_name, answers.before
    return Rows(
        ("sample", "true class", "baseline says", "trial says"),
        tuple(
            (
                int(sample),
                name(int(answers.truth[sample])),
                None if before is None else name(int(before[sample])),
                name(int(answers.given[sample])),
            )
            for sample in rows
        ),
    )
