"""The model card: `README.md` of a package, written from its manifest."""

from __future__ import annotations

from autoshrink.package.manifest import Figures, Manifest, Port
from autoshrink.search.words import human_bytes, human_ms
from autoshrink.types import Interval, Score


def model_card(manifest: Manifest) -> str:
    """The card as Markdown."""
    sections = [
        f"# {manifest.name}",
        _what(manifest),
        "## What was measured\n\n" + _table(manifest),
        _how(manifest),
        "## Signature\n\n" + _signature(manifest),
        "## Preprocessing\n\n" + (manifest.preprocessing.strip() or "The task describes none."),
        "## Run it\n\n" + _run(manifest),
        "## Verify it\n\n" + _verify(manifest),
        "## Where these figures hold\n\n" + _limits(manifest),
        "## Licence and intended use\n\n"
        "The weights derive from the model that the task brought: its licence, its intended use and its exclusions "
        "apply to this package unchanged, and so do those of the data it was trained on. Compression adds no right and "
        "no duty. `run.py` is part of autoshrink (Apache-2.0).",
    ]
    return "\n\n".join(sections) + "\n"


def _what(manifest: Manifest) -> str:
    study = manifest.study
    return (
        f"The model of task `{manifest.task}`, compressed: **{manifest.words}**. Compiled for target "
        f"`{manifest.target.name}` ({manifest.runtime.version}, {_count(manifest.target.threads, 'thread')}, batch "
        f"{manifest.target.batch}).\n\nTrial {study['trial']} of study `{study['name']}` (seed {study['seed']}), "
        f"found with autoshrink {manifest.autoshrink}, packed on {manifest.created[:10]}."
    )


def _table(manifest: Manifest) -> str:
    own, base, metric = manifest.figures, manifest.baseline, manifest.metric
    latency = own.latency
    rows = [
        ("", "this package", "fp32 baseline", "against the baseline"),
        ("---",) * 4,
        (f"{metric} on val", _score(own.val), _score(base.val), _drop(own)),
        (f"{metric} on test", _score(own.test), _score(base.test), _test_difference(own, base)),
        (
            "latency of one call",
            _latency(own),
            _latency(base),
            f"ratio {latency.ratio:.3f} {_interval(latency.ratio_ci, 3)}" if latency else "-",
        ),
        ("size", human_bytes(own.size_bytes), human_bytes(base.size_bytes), f"ratio {own.size_ratio:.3g}"),
        ("layers with weights that run in 8 bit", _layers(own), _layers(base), ""),
        ("conversions left between layers", _conversions(own), _conversions(base), ""),
        ("agreement with the float model", _decibel(own), _decibel(base), ""),
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _how(manifest: Manifest) -> str:
    machine, latency = manifest.machine, manifest.figures.latency
    text = (
        "Every figure is of the compiled files in this package, run by the runtime that is named above. Brackets hold "
        "95 % confidence intervals. Val steered the search; test was not looked at by it, and is scored only for the "
        "baseline and the trials of the front. The drop is paired: the same samples through both models.\n\n"
        "Latency was timed in a process that holds the runtime and nothing else, in rounds that alternate with the "
        "fp32 baseline, so that what the machine does to both cancels: compare the ratio, not the milliseconds"
    )
    if latency:
        text += f" ({_count(latency.rounds, 'round')} kept"
        text += "" if latency.stable else "; the interval stayed wider than the target asks"
        text += "; other processes held the core meanwhile" if latency.contended else ""
        text += ")"
    where = [str(machine[name]) for name in ("processor", "architecture", "system") if machine.get(name)]
    return f"{text}. Measured on: {', '.join(where) or 'a machine that was not described'}."


def _signature(manifest: Manifest) -> str:
    rows = [("", "name", "shape", "dtype", "meaning"), ("---",) * 5]
    rows += [("input", *_port(port), "") for port in manifest.signature.inputs]
    rows += [("output", *_port(port), port.kind) for port in manifest.signature.outputs]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _run(manifest: Manifest) -> str:
    files = " ".join(f"{port.name}.npy" for port in manifest.signature.inputs)
    return (
        "```\npip install -r requirements.txt\n"
        f"python run.py                # the {manifest.samples} samples, compared with the recorded outputs\n"
        f"python run.py {files}        # your own arrays [N, ...]; --save FOLDER keeps the outputs\n```\n\n"
        "`run.py` needs numpy and the runtime, not autoshrink. From Python: `from run import Model`, then "
        "`Model()(inputs)` with a dictionary of arrays [N, ...] by name."
    )


def _verify(manifest: Manifest) -> str:
    text = (
        "`autoshrink verify FOLDER` checks every file's SHA-256, runs the samples and compares the outputs"
        + (", and times the model against the baseline in `reference/`" if manifest.runtime.reference else "")
        + ". It ends with exit code 1 when something regressed. With `--task TASK` it scores the task's data again as "
        "well."
    )
    if manifest.runtime.reference:
        text += " `reference/` serves that comparison only; it does not count as part of the model's size."
    return text


def _limits(manifest: Manifest) -> str:
    processor = manifest.machine.get("processor") or "the processor above"
    return (
        f"Latency holds for {processor}, {manifest.runtime.version}, {_count(manifest.target.threads, 'thread')} and "
        f"batch {manifest.target.batch}. Another processor, version, batch or number of threads may choose other "
        f"kernels: measure again with `autoshrink verify`. {manifest.metric.capitalize()} holds for data like "
        "val and test. What the compressed model gets wrong need not be what the baseline gets wrong, even where both "
        "score the same."
    )


def _port(port: Port) -> tuple[str, str, str]:
    return f"`{port.name}`", f"[{', '.join(map(str, port.shape))}]", port.dtype


def _score(score: Score | None) -> str:
    if score is None:
        return "not scored"
    return f"{score.value:.4f} {_interval(score.ci, 4)}, {_count(score.count, 'sample')}"


def _drop(figures: Figures) -> str:
    if figures.drop is None:
        return "-"
    return f"drop {figures.drop:.4f}" + (f" {_interval(figures.drop_ci, 4)}" if figures.drop_ci else "")


def _test_difference(own: Figures, base: Figures) -> str:
    return f"drop {base.test.value - own.test.value:.4f}" if own.test and base.test else "-"


def _latency(figures: Figures) -> str:
    latency = figures.latency
    if latency is None:
        return "not measured"
    low, high = human_ms(latency.ms_ci.low), human_ms(latency.ms_ci.high)
    return f"{human_ms(latency.ms)} [{low}, {high}], p90 {human_ms(latency.p90_ms)}"


def _layers(figures: Figures) -> str:
    return f"{figures.audit.int8_layers} of {figures.audit.layers}" if figures.audit else "not audited"


def _conversions(figures: Figures) -> str:
    return (
        f"{figures.audit.conversions} of {_count(figures.audit.kernels, 'kernel')}" if figures.audit else "not audited"
    )


def _decibel(figures: Figures) -> str:
    return "-" if figures.agreement_db is None else f"{figures.agreement_db:.1f} dB"


def _interval(interval: Interval, digits: int) -> str:
    return f"[{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
