"""Everything that is shown of one trial, in its order, from the records alone; the dashboard and the report draw it."""

from __future__ import annotations

from dataclasses import dataclass

from autoshrink.dashboard.commands import explain_command, next_commands
from autoshrink.dashboard.palette import Palette
from autoshrink.dashboard.trial_accuracy import accuracy_block
from autoshrink.dashboard.trial_block import Block, Rows, note
from autoshrink.dashboard.trial_classes import read_answers
from autoshrink.dashboard.trial_latency import latency_block, read_calls
from autoshrink.dashboard.trial_layers import layer_picture
from autoshrink.dashboard.trial_layers_section import layers_block
from autoshrink.dashboard.trial_making import environment_block, log_block, stages_block
from autoshrink.dashboard.trial_summary import figures_block
from autoshrink.dashboard.view import TargetView
from autoshrink.errors import ConfigError
from autoshrink.explain.explanation import Explanation, read
from autoshrink.records import StudyFolder
from autoshrink.target import Limits
from autoshrink.types import TrialRecord


@dataclass(frozen=True)
class TrialPage:
    """A trial.

    Attributes:
        record: of it.
        blocks: the sections below its head.
        pick: the command that packs it; empty where there is nothing to pack.
    """

    record: TrialRecord
    blocks: tuple[Block, ...]
    pick: str

    def rows(self) -> dict[str, Rows]:
        """Name of a figure or a table -> what its file of values holds."""
        return {name: rows for block in self.blocks for name, rows in block.rows().items()}


def trial_page(study: StudyFolder, view: TargetView, record: TrialRecord, palette: Palette) -> TrialPage:
    """The page of a trial of `view`. What is absent or cannot be read says so in its place, and hides nothing else."""
    making = [stages_block(record), environment_block(record, study, view.target)]
    log = log_block(record, study)
    if record.artifact is None and record.val is None:
        return TrialPage(record, (log, _absent(), *making), "")
    baseline = view.baseline
    picture = layer_picture(record, baseline, explanation_of(study, record))
    blocks = [
        figures_block(record, view),
        layers_block(record, picture, explain_command(study, record)),
        latency_block(record, read_calls(study, record, view.why_not_measured), palette),
        accuracy_block(record, read_answers(study, record, baseline), palette),
        *making,
        log,
    ]
    packs = next_commands(study, view.name, Limits(), record.number)[0][1] if record.artifact else ""
    return TrialPage(record, tuple(blocks), packs)


def _absent() -> Block:
    said = "The trial ended before anything was compiled: it has no figures, no layers, no latency and no predictions."
    return Block("absent", "What is not here", (note(said),))


def explanation_of(study: StudyFolder, record: TrialRecord) -> Explanation | None:
    """What `autoshrink explain` kept of a trial; None where it kept nothing that can be read."""
    try:
        return read(study.trial_folder(record.target, record.number))
    except (ConfigError, OSError):
        return None
