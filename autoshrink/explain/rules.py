"""All rules. Each is a pure function from what is known to its findings."""

from __future__ import annotations

from autoshrink.explain import rules_integers, rules_shape, rules_sums, rules_time
from autoshrink.explain.findings import Finding
from autoshrink.explain.known import Known

RULES = (*rules_integers.RULES, *rules_shape.RULES, *rules_time.RULES, *rules_sums.RULES)


def findings_of(known: Known) -> tuple[Finding, ...]:
    """What costs time or is wrong, the dearest first; what has no time goes last."""
    found = [finding for rule in RULES for finding in rule(known)]
    return tuple(sorted(found, key=lambda finding: -(finding.ms if finding.ms is not None else -1.0)))
