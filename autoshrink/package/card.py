"""The model card: `README.md` of a package, written from its manifest."""

from __future__ import annotations

from autoshrink.package.manifest import Figures, Manifest, Port
from autoshrink.search.words import human_bytes, human_figure, human_ms, human_rate, rows_per_second
from autoshrink.types import Interval, Outcome, Score


def model_card(manifest: Manifest, usage: str = "", *, python: bool = True) -> str:
    """The card as Markdown.

    Args:
        manifest: of the package.
        usage: what a person of the target's world does with the package, from `## ` on.
        python: whether `run.py` is in it.
    """
    sections = [
        f"# {manifest.name}",
        _what(manifest),
        "## What was measured\n\n" + _table(manifest),
        *_found_in_compiling(manifest),
        _how(manifest),
        "## Signature\n\n" + _signature(manifest),
        "## Preprocessing\n\n" + (manifest.preprocessing.strip() or "The task describes none."),
        *(["## Run it\n\n" + _run(manifest)] if python else []),
        *([usage.strip()] if usage.strip() else []),
        "## Verify it\n\n" + _verify(manifest),
        "## Where these figures hold\n\n" + _limits(manifest),
        "## Licence and intended use\n\n"
        "The weights derive from the model that the task brought: its licence, its intended use and its exclusions "
        "apply to this package unchanged, and so do those of the data it was trained on. Compression adds no right and "
        "no duty. The programs in this package are part of autoshrink (Apache-2.0).",
    ]
    return "\n\n".join(sections) + "\n"


def _what(manifest: Manifest) -> str:
    study = manifest.study
    text = (
        f"The model of task `{manifest.task}`, compressed: **{manifest.words}**. Compiled for target "
        f"`{manifest.target.name}` ({manifest.runtime.version}, {_count(manifest.target.threads, 'thread')}, batch "
        f"{manifest.target.batch}).\n\nTrial {study['trial']} of study `{study['name']}` (seed {study['seed']}), "
        f"found with autoshrink {manifest.autoshrink}, packed on {manifest.created[:10]}."
    )
    missing = _missing(manifest.figures)
    if not missing:
        return text
    compiled = manifest.figures.outcome is Outcome.COMPILED
    return f"{text}\n\n**{'Compiled, not measured' if compiled else 'Not measured'}**: {missing}."


def _missing(figures: Figures) -> str:
    """What was not measured, and why; empty when all was."""
    absent = [name for name, value in (("accuracy", figures.val), ("latency", figures.latency)) if value is None]
    if not absent:
        return ""
    verb = "is" if len(absent) == 1 else "are"
    return f"{' and '.join(absent)} {verb} not known ({figures.reason or 'the trial does not say why'})"


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
    if manifest.target.objective == "throughput":
        batch = manifest.target.batch
        rows.insert(5, ("throughput", _throughput(own, batch), _throughput(base, batch), ""))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _found_in_compiling(manifest: Manifest) -> list[str]:
    """A table of what the backend found beside size and audit, and what it did other than the recipe says."""
    own, base = manifest.figures, manifest.baseline
    sections = []
    if own.figures:
        rows = [("found in compiling", "this package", "fp32 baseline", "by"), ("---",) * 4]
        for name, figure in own.figures.items():
            other = base.figures.get(name)
            rows.append((name, human_figure(figure), human_figure(other) if other else "-", figure.source))
        table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
        if any(figure.estimate for figure in own.figures.values()):
            table += "\n\nAn estimate was calculated for a device that was not there; nothing was timed on it."
        sections.append(table)
    if own.audit and own.audit.notes:
        notes = "\n".join(f"- {note}" for note in own.audit.notes)
        sections.append(f"Where the target does other than the recipe says, or as fast as it might:\n\n{notes}")
    return sections


def _how(manifest: Manifest) -> str:
    machine, own = manifest.machine, manifest.figures
    where = [str(machine[name]) for name in ("processor", "architecture", "system") if machine.get(name)]
    place = ", ".join(where) or "a machine that was not described"
    if own.val is None and own.latency is None:
        return f"Sizes are of the compiled files in this package. Compiled on: {place}."
    paragraphs = []
    if own.val is not None:
        paragraphs.append(
            "Every figure is of the compiled files in this package, run by the runtime that is named above. Brackets "
            "hold 95 % confidence intervals. Val steered the search; test was not looked at by it, and is scored only "
            "for the baseline and the trials of the front. The drop is paired: the same samples through both models."
        )
    if own.latency is not None:
        kept = [f"{_count(own.latency.rounds, 'round')} kept"]
        kept += [] if own.latency.stable else ["the interval stayed wider than the target asks"]
        kept += ["other processes held the core meanwhile"] if own.latency.contended else []
        kept += [f"the device's own pace changed by {own.latency.drift:+.0%} meanwhile"] if own.latency.drifts else []
        paragraphs.append(
            "Latency was timed in a process that holds the runtime and nothing else, in rounds that alternate with the "
            "fp32 baseline, so that what the machine does to both cancels: compare the ratio, not the milliseconds "
            f"({'; '.join(kept)})."
        )
    return "\n\n".join(paragraphs) + f" Measured on: {place}."


def _signature(manifest: Manifest) -> str:
    rows = [("", "name", "shape", "dtype", "meaning"), ("---",) * 5]
    rows += [("input", *_port(port), "") for port in manifest.signature.inputs]
    rows += [("output", *_port(port), port.kind) for port in manifest.signature.outputs]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _run(manifest: Manifest) -> str:
    files = " ".join(f"{port.name}.npy" for port in manifest.signature.inputs)
    against = "the float model's outputs" if manifest.not_run else "the recorded outputs"
    return (
        "```\npip install -r requirements.txt\n"
        f"python run.py                # the {manifest.samples} samples, compared with {against}\n"
        f"python run.py {files}        # your own arrays [N, ...]; --save FOLDER keeps the outputs\n```\n\n"
        "`run.py` needs numpy and the runtime, not autoshrink. From Python: `from run import Model`, then "
        "`Model()(inputs)` with a dictionary of arrays [N, ...] by name."
    )


def _verify(manifest: Manifest) -> str:
    against = " with those of the float model" if manifest.not_run else ""
    text = (
        f"`autoshrink verify FOLDER` checks every file's SHA-256, runs the samples and compares the outputs{against}"
        + (", and times the model against the baseline in `reference/`" if manifest.runtime.reference else "")
        + ". It ends with exit code 1 when something regressed. With `--task TASK` it scores the task's data again as "
        "well."
    )
    if manifest.runtime.reference:
        text += " `reference/` serves that comparison only; it does not count as part of the model's size."
    return text


def _limits(manifest: Manifest) -> str:
    if manifest.figures.latency is None:
        latency = (
            f"Latency was not measured: time the model on its device, with {manifest.runtime.version}, before you rely "
            "on it."
        )
    else:
        latency = _latency_limits(manifest)
    if manifest.figures.val is None:
        score = f"{manifest.metric.capitalize()} was not measured either: score the model on data like yours."
    else:
        score = f"{manifest.metric.capitalize()} holds for data like val and test."
    return (
        f"{latency} {score} What the compressed model gets wrong need not be what the baseline gets wrong, even where "
        "both score the same."
    )


def _latency_limits(manifest: Manifest) -> str:
    processor = manifest.machine.get("processor") or "the processor above"
    return (
        f"Latency holds for {processor}, {manifest.runtime.version}, {_count(manifest.target.threads, 'thread')} and "
        f"batch {manifest.target.batch}. Another processor, version, batch or number of threads may choose other "
        "kernels: measure again with `autoshrink verify`."
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


def _throughput(figures: Figures, batch: int) -> str:
    return human_rate(rows_per_second(figures.latency, batch)) if figures.latency else "not measured"


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
