"""FAKE sensitivities, and trials that were allocated by them: nobody measured either."""

from __future__ import annotations

from dataclasses import replace

from autoshrink.records import StudyFolder
from autoshrink.sensitivities import Sensitivities, SharedOut
from autoshrink.types import TrialRecord
from tests.fake_samples import SHAPES
from tests.fake_study import fake_trial

BITS = (8.0, 6.0, 4.0, 2.0)
FAKE_SENSITIVITIES = Sensitivities(
    "qat",
    "bits",
    "the weight of one layer alone is rounded; the outputs on 256 rows of the calibration set are compared",
    "nats of KL divergence",
    {
        layer: tuple((bits, (1 + place) * 4.0**-bits) for bits in BITS)
        for place, layer in enumerate((*SHAPES, "<b>odd</b>"))
    },
)


def fake_allocated(
    study: StudyFolder, number: int, bits: float, accuracy: float, measured: Sensitivities = FAKE_SENSITIVITIES
) -> TrialRecord:
    """A trial in which all layers have the same bits; what was measured lies in the study, the record does not."""
    recipe = [{"technique": "qat", "allocation": "mixed", "average_bits": bits}]
    shared = SharedOut(measured, dict.fromkeys(measured.losses, bits))
    record = fake_trial(number, recipe, accuracy=accuracy, ratio=0.3, size=int(5e5 * bits))
    return replace(record, allocations=(study.write_shared_out(shared),))


def write_fake_allocated(study: StudyFolder, first: int) -> list[TrialRecord]:
    """Six such trials from a number on, of two measurements; the fewer bits, the more is lost."""
    other = replace(FAKE_SENSITIVITIES, method="the same of a narrower model")
    plan = [(8.0, 0.9), (6.0, 0.898), (4.0, 0.89), (2.0, 0.7)]
    records = [fake_allocated(study, first + place, *each) for place, each in enumerate(plan)]
    records += [fake_allocated(study, first + 3 + place, *plan[place], other) for place in (1, 2)]
    for record in records:
        study.write(record)
    return records
