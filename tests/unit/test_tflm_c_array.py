"""A model as C source, compiled by the compilers of this machine."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from autoshrink.backends.tflm_c_array import c_array, c_header

MODEL = np.random.default_rng(0).integers(0, 256, 5001).astype(np.uint8).tobytes()
PRINTS_IT = """
#include "model_data.h"
#include <stdint.h>
#include <stdio.h>

int main(void) {
  fprintf(stderr, "%u %u", model_data_length, (unsigned)((uintptr_t)model_data % 16));
  return fwrite(model_data, 1, model_data_length, stdout) != model_data_length;
}
"""


@pytest.mark.parametrize(
    ("compiler", "standard", "ending"), [("gcc", "c11", "c"), ("gcc", "c17", "c"), ("g++", "c++11", "cc")]
)
def test_a_program_has_every_byte(compiler: str, standard: str, ending: str, tmp_path: Path) -> None:
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not on this machine; tests/system-packages.sh installs it")
    (tmp_path / "model_data.h").write_text(c_header("model_data"))
    (tmp_path / f"model_data.{ending}").write_text(c_array(MODEL, "model_data"))
    (tmp_path / f"main.{ending}").write_text(PRINTS_IT)
    sources = [str(tmp_path / f"{name}.{ending}") for name in ("model_data", "main")]
    strict = [f"-std={standard}", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    subprocess.run([compiler, *strict, *sources, "-o", str(tmp_path / "main")], check=True)
    done = subprocess.run([tmp_path / "main"], capture_output=True, check=True)
    assert done.stdout == MODEL
    assert done.stderr.decode() == f"{len(MODEL)} 0"


def test_the_text_of_three_bytes() -> None:
    text = c_array(b"\x00\xff\x10", "three")
    assert "alignas(16) const unsigned char three[] = {\n    0x00,0xff,0x10,\n};" in text
    assert "const unsigned int three_length = 3;" in text


@pytest.mark.parametrize("name", ["", "1st", "my model", "x;", "é", "a\n"])
def test_what_is_no_name_in_c_is_refused(name: str) -> None:
    for make in (lambda: c_array(MODEL, name), lambda: c_header(name)):
        with pytest.raises(ValueError, match="no name for an array in C"):
            make()


def test_a_model_without_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="no bytes"):
        c_array(b"", "model")
