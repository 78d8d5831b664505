"""An ONNX graph to a TensorRT plan, for the GPU that is here or for a named compute capability.

`trt` is the module `tensorrt` 10 or 11, or `tensorrt_rtx`. The names used are those that all three have: networks are
strongly typed, so the precision is that of the graph, and none of the flags that version 11 has no more is touched.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoshrink.backends.tensorrt_network import audit_of
from autoshrink.errors import StageError
from autoshrink.types import Audit

STAGE = "compile"
MOST_ROWS = 8
"""The largest batch of a model that leaves it free, unless the target's is larger."""
LONGEST_REASON = 600


@dataclass(frozen=True)
class Plan:
    """How an engine is built.

    Attributes:
        capability: such as `SM89`; empty is the GPU that is here.
        batch: rows of one call, for a model that leaves them free.
        sparse: whether weights hold the 2:4 pattern, for which there are kernels.
        timing_cache: file that kernels' times are kept in; None where the builder measures nothing.
    """

    capability: str = ""
    batch: int = 1
    sparse: bool = False
    timing_cache: Path | None = None


@dataclass(frozen=True)
class Built:
    """The serialized engine, and the audit of the network that it was built from, before layers are fused."""

    engine: bytes
    audit: Audit


def build(trt: Any, model: bytes, plan: Plan) -> Built:
    """The engine of a serialized ONNX model.

    Raises:
        StageError: the parser or the builder refuses it, with its own reasons in one line.
    """
    logger = logger_of(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        raise StageError(STAGE, f"the parser refuses it: {_one_line(_parser_errors(parser) or logger.lines)}")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if plan.capability:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, plan.capability), 0)
    if plan.sparse:
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    _add_profile(builder, network, config, plan.batch)
    if plan.timing_cache is not None:
        _set_timing_cache(config, plan.timing_cache)
    audit = audit_of(network)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise StageError(STAGE, f"the builder refuses it: {_one_line(logger.lines)}")
    if plan.timing_cache is not None:
        cache = config.get_timing_cache()
        _write(plan.timing_cache, bytes(cache.serialize()))
    return Built(bytes(engine), audit)


def logger_of(trt: Any) -> Any:
    """A logger that prints nothing and keeps the lines of errors in `lines`."""

    class Lines(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.lines.append(message)

    return Lines()


def _parser_errors(parser: Any) -> list[str]:
    problems = (parser.get_error(index) for index in range(parser.num_errors))
    return [
        # Some descriptions are no more than the condition that failed: `false`.
        f"{problem.node_name() or 'graph'} ({problem.node_operator()}), {problem.code().name}: {problem.desc()}"
        for problem in problems
    ]


def _one_line(reasons: list[str]) -> str:
    text = "; ".join(" ".join(reason.split()) for reason in reasons)
    return text[:LONGEST_REASON] or "it gives no reason"


def _add_profile(builder: Any, network: Any, config: Any, batch: int) -> None:
    """The optimization profile of a network with free dimensions: the first one of an input, the batch, alone."""
    free = [value for value in _inputs(network) if -1 in tuple(value.shape)]
    if not free:
        return
    profile = builder.create_optimization_profile()
    for value in free:
        shape = tuple(value.shape)
        if -1 in shape[1:]:
            raise StageError(
                STAGE,
                f"input {value.name!r} leaves dimension {shape.index(-1, 1)} free; only the batch may be: export it "
                "with fixed sizes",
            )
        least, usual, most = ((rows, *shape[1:]) for rows in (1, batch, max(batch, MOST_ROWS)))
        profile.set_shape(value.name, least, usual, most)
    config.add_optimization_profile(profile)


def _inputs(network: Any) -> Iterator[Any]:
    return (network.get_input(index) for index in range(network.num_inputs))


def _set_timing_cache(config: Any, path: Path) -> None:
    """Has the build use the timing cache of `path`, or an empty one where that is not there or not of this GPU."""
    try:
        stored = path.read_bytes()
    except OSError:
        stored = b""
    cache = config.create_timing_cache(stored)
    if not cache or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _write(path: Path, content: bytes) -> None:
    """In one rename: several children may write it, and the last one's times are as good as the others'."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    partial.write_bytes(content)
    partial.replace(path)
