"""What snippets need to know that only the files of one backend tell, a function a backend."""

from __future__ import annotations

from pathlib import Path

from autoshrink.package.manifest import Manifest, Port
from autoshrink.package.templates import Ports, Values, ports_of


def tflite_facts(manifest: Manifest, package: Path) -> tuple[Values, Ports]:  # noqa: ARG001 - the options say it all
    """The shapes that a `.tflite` file takes: those of the task, or with the channels last."""
    last = manifest.target.options.get("layout") == "nhwc"
    found = ports_of(manifest)
    inputs = [
        {**values, "file_shape": _channels_last(port)} if last and len(port.shape) == 4 else values
        for values, port in zip(found["inputs"], manifest.signature.inputs, strict=True)
    ]
    layout = (
        "Inputs of 4 dimensions are [N, H, W, C] in the file, as a camera gives them; the samples and `run.py` have "
        "them as [N, C, H, W]."
    )
    return {"layout": layout if last else "Inputs have the shapes of the signature above."}, {"inputs": tuple(inputs)}


def _channels_last(port: Port) -> str:
    rows, channels, height, width = port.shape
    return f"{rows}, {height}, {width}, {channels}"
