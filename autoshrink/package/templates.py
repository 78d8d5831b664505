"""Fills text files with what a package says of itself: names, shapes, files.

`@{name}` is a value. What stands between a line `@each inputs` (or `outputs`) and a line `@end` comes once for every
port, with the values of the port; the two lines may be comments of the file's language. Everything else stays as it
is, so that a template reads as the file it becomes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

import numpy as np

from autoshrink.package.manifest import ARTIFACT, Manifest, Port

_VALUE = re.compile(r"@\{(\w+)\}")
_EACH = re.compile(r"^\s*(?://|#)?\s*@each (\w+)\s*$")
_END = re.compile(r"^\s*(?://|#)?\s*@end\s*$")

Values = Mapping[str, str]


Ports = Mapping[str, tuple[Values, ...]]


class Raw(str):
    """A value that is source already, and is put in as it is."""

    __slots__ = ()


def fill(template: str, values: Values, ports: Ports, language: str) -> str:
    """The text of a template.

    Args:
        template: its text.
        values: name -> text, put in as it is in prose, and as the inside of a string literal in a program.
        ports: `inputs` and `outputs` -> the values of each port, which go before `values`.
        language: suffix of the file's name, such as `.kt`; `.md` is prose.

    Raises:
        KeyError: the template names a value that there is not.
        ValueError: an `@each` without its `@end`.
    """
    lines = template.splitlines(keepends=True)
    filled: list[str] = []
    at = 0
    while at < len(lines):
        each = _EACH.match(lines[at])
        if not each:
            filled.append(_line(lines[at], values, language))
            at += 1
            continue
        end = next((i for i in range(at, len(lines)) if _END.match(lines[i])), None)
        if end is None:
            raise ValueError(f"line {at + 1}: @each {each[1]} has no @end")
        for port in ports[each[1]]:
            filled += [_line(line, {**values, **port}, language) for line in lines[at + 1 : end]]
        at = end + 1
    return "".join(filled)


def _line(line: str, values: Values, language: str) -> str:
    return _VALUE.sub(lambda match: _literal(values[match[1]], language), line)


def _literal(value: str, language: str) -> str:
    """The inside of a string literal that means `value`; numbers and plain names are what they are."""
    if language == ".md" or isinstance(value, Raw):
        return str(value)
    escaped = json.dumps(value, ensure_ascii=False)[1:-1]
    return escaped.replace("$", r"\$") if language in (".kt", ".kts") else escaped


def values_of(manifest: Manifest) -> dict[str, str]:
    """What every template may name: the package, its files, how it runs."""
    runtime, target = manifest.runtime, manifest.target
    return {
        "package": manifest.name,
        "task": manifest.task,
        "recipe": manifest.words,
        "target": target.name,
        "precision": runtime.precision,
        "runtime": runtime.version,
        "version": runtime.version.partition(" ")[2],
        "threads": str(target.threads),
        "batch": str(target.batch),
        "samples": str(manifest.samples),
        "model": f"{ARTIFACT}/{runtime.artifact[0]}",
        "model_file": PurePosixPath(runtime.artifact[0]).name,
        "recorded": "false" if manifest.not_run else "true",
        "input_count": str(len(manifest.signature.inputs)),
        "output_count": str(len(manifest.signature.outputs)),
    }


def ports_of(manifest: Manifest) -> dict[str, tuple[dict[str, str], ...]]:
    """What a template may name of each input and output.

    `index` counts from 0; `shape` is `1, 3, 32, 32`, `rank` its length; `file_shape` is what the artifact takes, where
    its layout is another; `count` the elements of one call and `row` those of one of its rows; `bytes` those of one
    call; `dtype` as numpy names it; `comma` see `listed`.
    """
    signature = manifest.signature
    return {
        "inputs": listed(_port(i, port) for i, port in enumerate(signature.inputs)),
        "outputs": listed(_port(i, port) | {"kind": port.kind} for i, port in enumerate(signature.outputs)),
    }


def listed(entries: Iterable[Values]) -> tuple[dict[str, str], ...]:
    """The entries with `comma` in each: `,`, and nothing in the last, for languages that want none there."""
    entries = [dict(entry) for entry in entries]
    return tuple({**entry, "comma": "," if i + 1 < len(entries) else ""} for i, entry in enumerate(entries))


def _port(index: int, port: Port) -> dict[str, str]:
    return {
        "index": str(index),
        "name": port.name,
        "shape": ", ".join(map(str, port.shape)),
        "file_shape": ", ".join(map(str, port.shape)),
        "rank": str(len(port.shape)),
        "count": str(math.prod(port.shape)),
        "row": str(math.prod(port.shape[1:])),
        "bytes": str(math.prod(port.shape) * np.dtype(port.dtype).itemsize),
        "dtype": port.dtype,
    }
