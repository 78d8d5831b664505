"""Sections of HTML as components: the same elements, texts and attributes, and nothing that could run."""

from __future__ import annotations

from typing import Any

import pytest
from dash.development.base_component import Component
from hypothesis import given
from hypothesis import strategies as st

from autoshrink.dashboard.app.nodes import components
from autoshrink.dashboard.markup import Markup, element, join

Tree = str | tuple[str, dict[str, str], list[Any]]


def tree(found: Component | str) -> Tree:
    if isinstance(found, str):
        return found
    shown = found.to_plotly_json()
    properties = dict(shown["props"])
    children = properties.pop("children", None)
    return shown["type"], properties, [] if children is None else [tree(each) for each in children]


def trees(markup: Markup) -> list[Tree]:
    return [tree(each) for each in components(markup)]


def test_elements_texts_and_attributes_are_kept() -> None:
    made = element(
        "table",
        element("caption", "a & b < c"),
        element(
            "tr", element("th", "x", scope="col", colspan=2, class_="n"), element("td", tabindex=0, data_value=1.5)
        ),
        aria_label='"quoted"',
    )
    assert trees(made) == [
        (
            "Table",
            {"aria-label": '"quoted"'},
            [
                ("Caption", {}, ["a & b < c"]),
                (
                    "Tr",
                    {},
                    [
                        ("Th", {"scope": "col", "colSpan": "2", "className": "n"}, ["x"]),
                        ("Td", {"tabIndex": "0", "data-value": "1.5"}, []),
                    ],
                ),
            ],
        )
    ]


@pytest.mark.parametrize("tag", ["br", "img", "hr", "wbr", "col"])
def test_an_element_that_has_no_content_has_no_children(tag: str) -> None:
    """React refuses even an empty list of children there."""
    for written in (element(tag), Markup(f"<{tag}>"), Markup(f"<{tag}/>")):
        (made,) = components(join(["a", written, "b"]))[1:2]
        assert isinstance(made, Component)
        assert getattr(made, "children", None) is None


def test_a_picture_keeps_what_it_shows_and_says() -> None:
    assert trees(element("img", src="data:image/png;base64,AA==", alt="a shirt", width=28)) == [
        ("Img", {"src": "data:image/png;base64,AA==", "alt": "a shirt", "width": "28"}, [])
    ]


def test_bare_attributes_are_true_and_others_left_out() -> None:
    assert trees(element("details", "x", open=True, hidden=False, id=None)) == [("Details", {"open": True}, ["x"])]


def test_of_a_style_only_a_width_in_percent_is_kept() -> None:
    assert trees(element("span", style="width: 12.5%")) == [("Span", {"style": {"width": "12.5%"}}, [])]
    assert trees(element("span", style="width: 1%; background: url(http://x)")) == [("Span", {}, [])]


def test_a_text_in_parts_is_one() -> None:
    assert trees(element("p", "a", "&", "b", None, ["c", 3])) == [("P", {}, ["a&bc3"])]


@pytest.mark.parametrize("tag", ["script", "style", "iframe", "object", "embed", "base", "svg", "path", "blink2"])
def test_what_could_run_or_has_no_component_is_refused(tag: str) -> None:
    with pytest.raises(ValueError, match=f"<{tag}>: a section cannot hold it"):
        components(element(tag, "x"))


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("<p>a", "<p> is not closed"),
        ("<p>a</b></p>", "</b> closes <p>"),
        ("</p>", "</p> closes <nothing>"),
        ('<p onclick="f()">a</p>', "onclick"),
    ],
)
def test_what_is_not_well_formed_is_told(written: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        components(Markup(written))


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
TREES = st.recursive(
    TEXT,
    lambda inner: st.tuples(
        st.sampled_from(["div", "p", "span", "td", "ul", "code", "pre"]),
        st.dictionaries(st.sampled_from(["title", "id", "class_", "aria_label", "data_x"]), TEXT, max_size=3),
        st.lists(inner, max_size=4),
    ),
    max_leaves=12,
)
NAMES = {"class_": "className", "aria_label": "aria-label", "data_x": "data-x"}


@given(TREES)
def test_whatever_text_comes_from_records_is_text_again(given_: Any) -> None:
    assert trees(_written(given_)) == _expected([given_])


def _written(of: Any) -> Markup:
    if isinstance(of, str):
        return join([of])
    tag, attributes, children = of
    return element(tag, *map(_written, children), **attributes)


def _expected(of: list[Any]) -> list[Tree]:
    found: list[Tree] = []
    for each in of:
        if not isinstance(each, str):
            tag, attributes, children = each
            named = {NAMES.get(name, name): value for name, value in attributes.items()}
            found.append((tag.capitalize(), named, _expected(children)))
        elif each and found and isinstance(found[-1], str):
            found[-1] += each
        elif each:
            found.append(each)
    return found
