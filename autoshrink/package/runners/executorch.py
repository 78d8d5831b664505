"""ExecuTorch with XNNPACK on the processor. Its Python bindings take torch's tensors and no others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]


def load(folder: Path, manifest: Mapping[str, Any]) -> Callable[[Mapping[str, Array]], list[Array]]:
    """What makes one call; see `autoshrink.package.runners`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch

        # Not `executorch.runtime`: it imports the exporter as well.
        from executorch.extension.pybindings import _C as runtime  # noqa: N811 - the bindings have no other name
    names = [port["name"] for port in manifest["signature"]["inputs"]]
    runtime._unsafe_reset_threadpool(manifest["target"]["threads"])
    program = runtime._load_program(str(folder / manifest["runtime"]["artifact"][0]))
    method = program.load_method("forward")

    def tensor(values: Array) -> Any:
        # Viewed anew, for the runtime goes by the strides, and those of dimensions of size 1 may be any.
        array = np.array(values, order="C")
        return torch.from_numpy(array.reshape(-1)).view(array.shape)

    def run(inputs: Mapping[str, Array]) -> list[Array]:
        # The program must outlive its method.
        _ = program
        results = method.call([tensor(inputs[name]) for name in names])
        return [np.array(value.numpy()) for value in results]

    return run
