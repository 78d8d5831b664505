"""What is said above a study's figures: how it stands, and what of it cannot be read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from dash.development.base_component import Component

from autoshrink.activity import Activity, Underway
from autoshrink.dashboard.app.notices import broken_notice, notices, state_notice
from autoshrink.dashboard.library import Broken, Library, Snapshot, StudyState
from autoshrink.dashboard.standing import BROKEN_SHOWN, broken_markup, state_markup, trials_so_far
from autoshrink.records import StudyFolder
from autoshrink.types import Recipe
from tests.fake_study import FAKE_TARGETS, fake_meta, fake_trial, make_fake_study


@pytest.fixture
def done(tmp_path: Path) -> Snapshot:
    make_fake_study(tmp_path / "fake-study", trials=6)
    return Library(tmp_path).snapshot("fake-study")


def text_of(component: object) -> str:
    if not isinstance(component, Component):
        return "" if component is None else str(component)
    children = getattr(component, "children", None)
    return "".join(map(text_of, children if isinstance(children, list) else [children]))


def test_a_whole_study_that_is_done_needs_no_word(done: Snapshot) -> None:
    assert done.state is StudyState.DONE
    assert state_markup(done) is None
    assert broken_markup(done) is None
    assert notices(done) == []


def test_trials_are_counted_over_all_targets(done: Snapshot) -> None:
    assert trials_so_far(done) == "12 of 12 trials"
    assert trials_so_far(replace(done, meta=replace(done.meta, trials=None))) == "12 trials"
    # `resume --trials` may ask for fewer than there are.
    assert trials_so_far(replace(done, meta=replace(done.meta, trials=2))) == "12 trials"


def test_a_running_study_says_what_it_does_now(done: Snapshot) -> None:
    recipe = Recipe.from_json([{"technique": "prune", "ratio": 0.5}])
    trials = (Underway(7, recipe, "measure", "adb 3A2F", "", ""), Underway(8, recipe, "", "", "", ""))
    activity = replace(Activity.here(24, None), targets={"phone": trials, "server": ()})
    running = replace(done, state=StudyState.RUNNING, activity=activity, meta=replace(done.meta, trials=12))
    said = text_of(state_notice(running))
    assert said == "Running: 12 of 24 trials ended. Now: phone, trial 7, measure on adb 3A2F; phone, trial 8."


def test_an_interrupted_study_names_the_command_that_goes_on(tmp_path: Path) -> None:
    name = "a study's; name"
    target = "onnxruntime-cpu"
    study = StudyFolder.create(tmp_path / name, fake_meta({target: FAKE_TARGETS[target]}, 4, name=name))
    snapshot = Library(tmp_path).snapshot(name)
    assert text_of(state_notice(snapshot)).startswith("No trial yet")
    study.write(fake_trial(0))
    said = text_of(state_notice(Library(tmp_path).snapshot(name)))
    assert said.startswith("Interrupted after 1 of 4 trials. ")
    assert f"""autoshrink resume 'a study'"'"'s; name' --results {tmp_path}""" in said


def test_broken_records_are_named_with_their_reason(done: Snapshot, tmp_path: Path) -> None:
    file = tmp_path / "fake-study" / "openvino-cpu" / "trials" / "0003.json"
    file.write_text(file.read_text()[:100])
    said = text_of(broken_notice(Library(tmp_path).snapshot("fake-study")))
    assert said.startswith("1 file cannot be read and is missing below; everything else is shown.")
    assert "fake-study/openvino-cpu/trials/0003.json is not JSON" in said
    assert str(tmp_path) not in said


def test_many_broken_records_unfold_and_text_is_escaped(done: Snapshot) -> None:
    many = tuple(Broken(f"fake-study/<b>{number}.json", "<script>") for number in range(BROKEN_SHOWN + 2))
    markup = broken_markup(replace(done, broken=many))
    assert markup is not None
    assert "<b>7 files cannot be read</b> and are missing" in markup
    assert markup.count("<li>") == BROKEN_SHOWN + 2
    assert "<summary>2 more</summary>" in markup
    assert "<script>" not in markup
    assert "<b>0" not in markup
