"""A model as C source, for firmware without a file system: its bytes lie in flash, and are read where they lie."""

from __future__ import annotations

import re

ALIGNMENT = 16
"""Bytes; what TFLite's own schema asks for the data of a model, whose offsets count from its first byte."""
BYTES_A_LINE = 16


def c_array(model: bytes, name: str) -> str:
    """Source that compiles as C11 and as C++11 and defines `name` and `name_length`.

    Args:
        model: content of a `.tflite` file.
        name: identifier of the array, `const unsigned char[]`, aligned to 16 bytes. Its length in bytes is
            `const unsigned int name_length`. Both are visible to other source files, see `c_header`.

    Raises:
        ValueError: the model is empty, or the name is not an identifier.
    """
    if not model:
        raise ValueError("the model has no bytes; an array needs at least one")
    lines = (model[at : at + BYTES_A_LINE] for at in range(0, len(model), BYTES_A_LINE))
    rows = "\n".join("    " + "".join(f"0x{byte:02x}," for byte in line) for line in lines)
    return (
        f"/* A TensorFlow Lite model of {len(model)} bytes. */\n"
        f"#ifndef __cplusplus\n#include <stdalign.h>\n#endif\n\n"
        # Without a declaration before it, a constant of C++ is not visible to other files.
        f"{_declarations(name)}\n"
        f"alignas({ALIGNMENT}) const unsigned char {name}[] = {{\n{rows}\n}};\n"
        f"const unsigned int {name}_length = {len(model)};\n"
    )


def c_header(name: str) -> str:
    """The header that declares what `c_array` defines.

    Raises:
        ValueError: the name is not an identifier.
    """
    guard = f"{name.upper()}_H_"
    return f"#ifndef {guard}\n#define {guard}\n\n{_declarations(name)}\n#endif\n"


def _declarations(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name, re.ASCII):
        raise ValueError(f"{name!r} is no name for an array in C; it must be letters, digits and _, a letter first")
    return (
        '#ifdef __cplusplus\nextern "C" {\n#endif\n'
        f"extern const unsigned char {name}[];\nextern const unsigned int {name}_length;\n"
        "#ifdef __cplusplus\n}\n#endif\n"
    )
