"""Every name of TensorRT that the backends use is in the real bindings of TensorRT-RTX, and of TensorRT 10 and 11.

The bindings of TensorRT install anywhere, its libraries only from NVIDIA. So the bindings are loaded beside libraries
that are fake: the nine functions that they import, which are never called. `AUTOSHRINK_TENSORRT_BINDINGS` names folders
(separated as in PATH) that `pip install --no-deps --target FOLDER tensorrt-cu12-bindings==VERSION` has filled.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import autoshrink.backends

VARIABLE = "AUTOSHRINK_TENSORRT_BINDINGS"
SOURCES = ("tensorrt_build.py", "tensorrt_network.py", "tensorrt_session.py")
CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "problem": "ParserError",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
    "layer": "ILayer",
    "value": "ITensor",
}
"""Names of variables in the backends' files -> the class that they hold."""

USED = {
    "Builder": {
        "build_serialized_network": 2,
        "create_builder_config": 0,
        "create_network": 1,
        "create_optimization_profile": 0,
    },
    "OnnxParser": {"get_error": 1, "num_errors": None, "parse": 1},
    "ParserError": {"code": 0, "desc": 0, "node_name": 0, "node_operator": 0},
    "INetworkDefinition": {"get_input": 1, "get_layer": 1, "num_inputs": None, "num_layers": None},
    "ILayer": {
        "get_input": 1,
        "get_output": 1,
        "name": None,
        "num_inputs": None,
        "num_outputs": None,
        "type": None,
    },
    "ITensor": {"name": None, "shape": None},
    "IBuilderConfig": {
        "add_optimization_profile": 1,
        "create_timing_cache": 1,
        "get_timing_cache": 0,
        "num_compute_capabilities": None,
        "profiling_verbosity": None,
        "set_compute_capability": 2,
        "set_flag": 1,
        "set_timing_cache": 2,
    },
    "IOptimizationProfile": {"set_shape": 4},
    "ITimingCache": {"serialize": 0},
    "Runtime": {"deserialize_cuda_engine": 1},
    "ICudaEngine": {
        "create_engine_inspector": 0,
        "create_execution_context": 0,
        "get_tensor_dtype": 1,
        "get_tensor_mode": 1,
        "get_tensor_name": 1,
        "get_tensor_shape": 1,
        "num_io_tensors": None,
    },
    "EngineInspector": {"get_engine_information": 1},
    "IExecutionContext": {
        "execute_async_v3": 1,
        "get_tensor_shape": 1,
        "infer_shapes": 0,
        "profiler": None,
        "set_input_shape": 2,
        "set_tensor_address": 2,
    },
    "": {
        "BuilderFlag.SPARSE_WEIGHTS": None,
        "ILogger.Severity.ERROR": None,
        "ILogger.__init__": None,
        "ILogger.Severity.INTERNAL_ERROR": None,
        "LayerInformationFormat.JSON": None,
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED": None,
        "ProfilingVerbosity.DETAILED": None,
        "TensorIOMode.INPUT": None,
        "TensorIOMode.OUTPUT": None,
    },
}
"""Class -> what is used of it: with how many arguments it is called, or None for what is only read."""
RTX_ONLY = {"IBuilderConfig": {"num_compute_capabilities", "set_compute_capability"}}

CHILD = """
import json, re, sys
from importlib import import_module
trt = import_module(sys.argv[1])
missing = []
for cls, used in json.loads(sys.argv[2]).items():
    for name, count in used.items():
        found = getattr(trt, cls) if cls else trt
        try:
            for part in name.split("."):
                found = getattr(found, part)
        except AttributeError:
            missing.append(f"{cls}.{name}")
            continue
        signature = re.search(rf"{name}\\\\(self: [^,)]+(.*)\\\\) ->", found.__doc__ or "")
        if count is None or signature is None:
            continue
        arguments = [part for part in signature[1].split(", ") if re.match(r"\\\\w+: ", part)]
        needed = [part for part in arguments if " = " not in part]
        if not len(needed) <= count <= len(arguments):
            missing.append(f"{cls}{signature[0]} with {count} arguments")
print(json.dumps([trt.__version__, missing]))
"""
IMPORTED = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry"),
    *("getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins"),
)
"""What the bindings import from TensorRT's libraries."""
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")


def missing_in(module: str, used: object, **environment: str) -> tuple[str, list[str]]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD.replace("\\\\", "\\"), module, json.dumps(used)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    version, missing = json.loads(done.stdout)
    return version, missing


def test_in_tensorrt_rtx() -> None:
    if find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt-rtx-cu12 is not installed")
    version, missing = missing_in("tensorrt_rtx", USED)
    assert missing == []
    assert version


def test_a_name_that_is_not_there_is_found() -> None:
    if find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt-rtx-cu12 is not installed")
    wrong = {"Builder": {"build_engine": 2, "create_network": 7}}
    assert [name.partition("(")[0] for name in missing_in("tensorrt_rtx", wrong)[1]] == [
        "Builder.build_engine",
        "Buildercreate_network",
    ]


def folders() -> list[Path]:
    named = [Path(folder) for folder in os.environ.get(VARIABLE, "").split(os.pathsep) if folder]
    spec = find_spec("tensorrt_bindings")
    return [*named, *([Path(spec.origin).parent.parent] if spec and spec.origin else [])]


@pytest.mark.parametrize("major", ["10", "11"])
def test_in_tensorrt(major: str, tmp_path: Path) -> None:
    of_major = [folder for folder in folders() if any(folder.glob(f"tensorrt_cu*_bindings-{major}.*.dist-info"))]
    if not of_major:
        pytest.skip(f"no bindings of TensorRT {major} are installed, and none in {VARIABLE}")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler, which the fake libraries of TensorRT need")
    (tmp_path / "fake.c").write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in IMPORTED))
    for library in LIBRARIES:
        out = tmp_path / f"lib{library}.so.{major}"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", str(out), str(tmp_path / "fake.c")], check=True)
    used = {
        cls: {name: count for name, count in names.items() if name not in RTX_ONLY.get(cls, ())}
        for cls, names in USED.items()
    }
    version, missing = missing_in("tensorrt_bindings", used, LD_LIBRARY_PATH=str(tmp_path), PYTHONPATH=str(of_major[0]))
    assert version.split(".")[0] == major
    assert missing == []


def test_the_table_is_what_the_backends_use() -> None:
    found: dict[str, set[str]] = {cls: set() for cls in USED}
    for name in SOURCES:
        tree = ast.parse((Path(autoshrink.backends.__file__).parent / name).read_text())
        for cls, used in _used(tree):
            found[cls].add(used)
    assert {cls: sorted(names) for cls, names in found.items()} == {cls: sorted(names) for cls, names in USED.items()}


def _used(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The attributes of variables in `CLASSES`, and the longest chains of attributes of the module itself."""
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        parts = ast.unparse(node).removeprefix("self.").split(".")
        holder = parts[0].lstrip("_")
        if holder == "trt" and id(node) not in inner and len(parts) > 2:
            yield "", ".".join(parts[1:])
        elif holder in CLASSES and len(parts) == 2 and parts[1].isidentifier():
            yield CLASSES[holder], parts[1]
