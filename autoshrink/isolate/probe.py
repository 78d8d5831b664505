"""What a target's runtime says of this machine, asked in the interpreter that would run it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from autoshrink.backends import get_backend
from autoshrink.backends.base import Availability
from autoshrink.errors import TargetUnavailable
from autoshrink.isolate.job import Job, Loaded
from autoshrink.isolate.parent import run_job
from autoshrink.isolate.process import interpreter
from autoshrink.target import Target

ASK = """
import json, sys
from dataclasses import asdict
from autoshrink.backends import get_backend
print(json.dumps(asdict(get_backend(sys.argv[1]).available())))
"""
SECONDS = 60


def availability(target: Target) -> Availability:
    """What the target's backend can do here, in the target's own interpreter where it names one. Never raises.

    Where other devices measure, this one compiles.
    """
    if target.devices:
        return get_backend(target.backend).to_compile(target.options)
    if not target.python:
        return get_backend(target.backend).available()
    python = interpreter(target)
    fix = f"autoshrink doctor --fix {target.name}"
    if not Path(python).is_file():
        return Availability("unavailable", f"python is {target.python}, and no such file is there", fix)
    try:
        answer = subprocess.run(
            [python, "-c", ASK, target.backend], capture_output=True, text=True, timeout=SECONDS, check=True
        )
        return Availability(**json.loads(answer.stdout))
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or [f"it ended with code {error.returncode}"])[-1]
        return Availability("unavailable", f"{target.python} cannot ask the backend: {last}", fix)
    except (OSError, ValueError, TypeError, subprocess.TimeoutExpired) as error:
        return Availability("unavailable", f"{target.python} gives no answer: {error}", fix)


def probe(target: Target) -> frozenset[str]:
    """What the target's runtime reports of this machine, asked in a child; nothing of one that is not here to run.

    A target with devices elsewhere only has to be able to compile here.

    Raises:
        TargetUnavailable: the runtime is not here, with what to do about it.
        ChildError: it is, and cannot be started.
    """
    available = availability(target)
    if available.state == "unavailable":
        raise TargetUnavailable(f"target {target.name} is {available.state}: {available.why}; {available.fix}")
    if available.state == "compile-only" or target.devices:
        return frozenset()
    with TemporaryDirectory(prefix="autoshrink-") as place:
        job = Job(
            backend=target.backend,
            threads=target.threads,
            batch=target.batch,
            limits=target.child,
            artifact=Loaded(Path(place), (), "fp32"),
            probe=True,
            options=target.options,
            device=target.device,
        )
        return run_job(job, Path(place), python=interpreter(target)).capabilities
