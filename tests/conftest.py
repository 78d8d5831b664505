"""What all tests share: a cache of their own, and a few small ONNX files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autoshrink.cache import CACHE_VARIABLE
from tests import onnx_files


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's cache, where the locks of devices lie as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The ONNX file of a name in `onnx_files.BUILDERS`, written once."""
    folder = tmp_path_factory.mktemp("onnx")

    def file(name: str) -> Path:
        path = folder / f"{name}.onnx"
        if not path.exists():
            onnx_files.BUILDERS[name](path)
        return path

    return file
