"""What the contract suites share."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoshrink.backends.base import Compiled, Source

pytest.register_assert_rewrite("tests.contracts.backend_contract", "tests.contracts.technique_contract")

from tests.contracts.backend_contract import Made, Workshop  # noqa: E402


@pytest.fixture(scope="class")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Artifacts by model and precision, with the folder they lie in under the empty key."""
    return {("", ""): Made(tmp_path_factory.mktemp("artifacts"), Compiled(()), Source(Path()))}
