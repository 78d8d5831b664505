"""The per-layer picture of a trial as a table with small bars."""

from __future__ import annotations

from autoshrink.dashboard.explain_words import ms as milliseconds
from autoshrink.dashboard.explain_words import share as percent
from autoshrink.dashboard.formatting import counted
from autoshrink.dashboard.markup import Markup, element
from autoshrink.dashboard.trial_block import Block, Listing, Part, Rows, heads, meter, note, region
from autoshrink.dashboard.trial_layers import LayerPicture, LayerRow
from autoshrink.types import LOW_BIT_WEIGHTS, TrialRecord

FULL_BITS = 8
"""Bits of a whole bar."""


def layers_block(record: TrialRecord, picture: LayerPicture, explain: str) -> Block:
    """The section; `explain` is the command that finds shares of the time."""
    if not picture.rows:
        why = "nothing was compiled" if record.artifact is None else "the runtime tells nothing of its kernels"
        return Block("layers", "Layer by layer", (note(f"No layers are known: {why}."),))
    parts: list[Part] = [_summary(record), Listing("layers", _table(picture), "the layers", _rows(picture))]
    parts += [note(line) for line in _notes(record, picture)]
    if not picture.is_timed and record.latency is not None:
        parts.append(note("Where the time goes, layer by layer: ", element("code", explain)))
    return Block("layers", "Layer by layer", tuple(parts))


def _summary(record: TrialRecord) -> Markup:
    audit = record.audit
    if audit is None:
        return note("The runtime was not asked which kernels it runs.")
    parts = [
        f"{audit.int8_layers} of {counted(len(audit.layers), 'layer')} run in 8 bit",
        f"{counted(audit.conversions, 'conversion')} left between them",
        f"{counted(audit.kernels, 'kernel')} in all",
    ]
    return element("p", f"{', '.join(parts)}.", class_="why")


def _table(picture: LayerPicture) -> Markup:
    rows = picture.rows
    columns = [("layer", False)]
    has_bits = any(row.bits is not None for row in rows)
    has_channels = any(row.channels is not None for row in rows)
    has_rank = any(row.rank is not None for row in rows)
    has_kernels = any(row.kernel is not None for row in rows)
    columns += [("weight bits", False)] * has_bits + [("channels", False)] * has_channels + [("rank", False)] * has_rank
    columns += [("really runs in", False)] * has_kernels + [("share of the time", False)] * picture.is_timed

    def line(row: LayerRow) -> Markup:
        return element(
            "tr",
            element("th", row.name, scope="row"),
            _bits(row) if has_bits else None,
            _of(row.channels, row.channels_before, "other") if has_channels else None,
            _of(row.rank, row.full_rank, "other") if has_rank else None,
            _kernel(row) if has_kernels else None,
            _time(row) if picture.is_timed else None,
        )

    table = element("table", heads(columns), element("tbody", map(line, rows)), class_="layers")
    return region(table, "Layers of the trial")


def _bits(row: LayerRow) -> Markup:
    if row.bits is None:
        return element("td", "-", class_="share")
    return element("td", meter(row.bits / FULL_BITS), str(row.bits), class_="share")


def _of(value: int | None, whole: int | None, kind: str) -> Markup:
    if value is None:
        return element("td", "-", class_="share")
    if whole is None:
        return element("td", str(value), class_="share")
    return element("td", meter(value / whole, kind), f"{value} of {whole}", class_="share")


def _kernel(row: LayerRow) -> Markup:
    if row.kernel is None:
        return element("td", "not told")
    runs = "int8" if row.kernel.is_int8 else "low" if row.kernel.precision == LOW_BIT_WEIGHTS else "float"
    kind = row.kernel.kind + (f", as {row.kernel.name}" if row.is_renamed else "")
    return element("td", element("span", row.kernel.precision, class_=f"runs {runs}"), element("small", kind))


def _time(row: LayerRow) -> Markup:
    if row.share is None:
        return element("td", "-", class_="share")
    return element(
        "td", meter(row.share), percent(row.share), element("small", milliseconds(row.ms)), class_="share"
    )  # fmt: skip


def _notes(record: TrialRecord, picture: LayerPicture) -> list[object]:
    said: list[object] = []
    if picture.unmatched:
        listed = ", ".join(f"{kernel.name} ({kernel.kind}, {kernel.precision})" for kernel in picture.unmatched)
        said.append(f"Kernels with weights whose layer the runtime's names do not tell: {listed}.")
    if picture.gone:
        said.append(f"Layers of the baseline that are gone: {', '.join(picture.gone)}.")
    if not record.weights and record.audit is not None:
        said.append("The record has no shapes of weights: it is from before they were kept, so rows are kernels.")
    if record.audit is not None:
        said.extend(f"{note_[:1].upper()}{note_[1:]}." for note_ in record.audit.notes)
    return said


def _rows(picture: LayerPicture) -> Rows:
    return Rows(
        (
            *("layer", "weight bits", "output channels", "of the baseline", "rank", "full rank"),
            *("kernel", "kind", "precision", "share of the time", "ms"),
        ),
        tuple(
            (
                *(row.name, row.bits, row.channels, row.channels_before, row.rank, row.full_rank),
                *((row.kernel.name, row.kernel.kind, row.kernel.precision) if row.kernel else (None, None, None)),
                *(row.share, row.ms),
            )
            for row in picture.rows
        ),
    )
