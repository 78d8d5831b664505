"""`across` in words and as JSON: what the terminal and the report both say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from autoshrink.dashboard.across import Across, RecipeSet, Service
from autoshrink.dashboard.formatting import counted, factor, speed_up
from autoshrink.dashboard.target_agreement import Disagreement, accuracy
from autoshrink.dashboard.view import NOT_MEASURED, TargetView
from autoshrink.search.words import describe, human_bytes, human_ms
from autoshrink.types import Interval

Views = Mapping[str, TargetView]


def titles(found: Across) -> Iterator[tuple[RecipeSet, str, str]]:
    """Of each set its title and what it is worth."""
    for place, each in enumerate(found.sets):
        count, worst = len(each.recipes), each.services[each.worst]
        if place == 0:
            serve = "serves" if count == 1 else "serve"
            text = f"{serve} all {counted(len(each.services), 'target')}, the fewest that do"
        else:
            before = found.sets[place - 1]
            gained = "; ".join(
                f"{name} {factor(old)}x to {factor(now)}x its best {_measure(each.services[name])}"
                for name, (old, now) in each.gains_over(before).items()
            )
            text = f"{count - len(before.recipes)} more brings {gained}"
        far = f"; farthest from its best: {each.worst}, {penalty(worst)}"
        yield each, counted(count, "recipe"), text if worst.is_as_good else f"{text}{far}"


def _measure(service: Service) -> str:
    return "latency" if service.is_timed else "size"


def penalty(service: Service) -> str:
    """How far a service is from the target's best."""
    return "the best" if service.penalty == 1 else f"{factor(service.penalty)}x its {_measure(service)}"


def speed_heading(each: RecipeSet, views: Views) -> str:
    """What the column of `speed` holds."""
    kinds = {views[name].shows_throughput for name in each.services}
    return "speed" if len(kinds) > 1 else "throughput" if True in kinds else "latency"


def speed(service: Service, view: TargetView) -> tuple[str, str]:
    """Latency or throughput, and the speed-up; that it was not measured."""
    latency = service.record.latency
    if latency is None:
        return NOT_MEASURED, ""
    text = view.rate(service.record) if view.shows_throughput else human_ms(latency.ms)
    return text, speed_up(latency.ratio)


def change(service: Service, view: TargetView) -> tuple[str, str]:
    """What the metric changes by, and where that was measured when it was not on the target itself."""
    scored = service.scored
    drop = 0.0 if not scored.recipe.stages else scored.drop
    elsewhere = f"on {scored.target}" if scored.target != service.record.target else ""
    return (NOT_MEASURED if drop is None else view.metric.change(drop)), elsewhere


def notes(found: Across, views: Views) -> Iterator[str]:
    """What stands under the sets."""
    if found.sets:
        yield (
            "A recipe is one model to train and maintain; each target gets its own compiled form of it. Sets are the "
            "best of their number by the target that is farthest from its own best trial within its limits"
        )
    metric = next(iter(views.values())).metric
    bounds = {drop: [name for name, own in found.drops.items() if own == drop] for drop in found.drops.values()}
    for drop, names in bounds.items():
        where = "" if len(bounds) == 1 else f" on {', '.join(names)}"
        yield f"Allowed change of {metric.name}{where}, by its 95 % bound: {metric.change(drop)}"
    for name, limits in found.unchecked.items():
        which = "the limit" if len(limits) == 1 else "the limits"
        yield f"{name}: {which} on {', '.join(limits)} could not be checked, since that was not measured there"
    yield (
        f"Of {counted(found.tried, 'recipe')} that were tried, {found.everywhere} on every target; one counts where "
        "it was tried"
    )


def agreement(shared: int, found: Sequence[Disagreement], views: Views) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Sentences about the targets' agreement in accuracy, each with its reasons."""
    if not shared:
        yield "No recipe was measured on more than one target, so there is nothing to compare", ()
        return
    of = f"Of {counted(shared, 'recipe')} measured on several targets"
    if not found:
        yield f"{of}, every one has the same accuracy on all of them, as far as its intervals tell", ()
        return
    differing = len({each.recipe for each in found})
    yield (
        f"{of}, {differing} {'differs' if differing == 1 else 'differ'} in accuracy by more than the intervals allow",
        (),
    )
    for each in found:
        metric = views[each.high.target].metric
        yield (
            f"{describe(each.recipe)}: {metric.value(accuracy(each.high))} on {each.high.target} (trial "
            f"{each.high.number}), {metric.value(accuracy(each.low))} on {each.low.target} (trial {each.low.number})",
            each.reasons,
        )


def across_json(found: Across, shared: int, differing: Sequence[Disagreement], views: Views) -> dict[str, Any]:
    """`sets` (from the smallest), `unserved` (target -> why), `max_drop` and `unchecked_limits` by target, and
    `agreement` of accuracies between targets.
    """
    return {
        "sets": [
            {
                "recipes": [_recipe(recipe.to_json(), recipe.key, describe(recipe)) for recipe in each.recipes],
                "worst_target": each.worst,
                "worst_penalty": each.services[each.worst].penalty,
                "targets": {name: _service(service, views[name]) for name, service in each.services.items()},
                "buys": {
                    name: {"penalty_before": before, "penalty": now}
                    for name, (before, now) in (each.gains_over(found.sets[place - 1]) if place else {}).items()
                },
            }
            for place, each in enumerate(found.sets)
        ],
        "unserved": dict(found.unserved),
        "max_drop": dict(found.drops),
        "unchecked_limits": {name: list(limits) for name, limits in found.unchecked.items()},
        "recipes_tried": found.tried,
        "recipes_on_every_target": found.everywhere,
        "agreement": {
            "recipes_on_several_targets": shared,
            "differences": [
                {
                    **_recipe(each.recipe.to_json(), each.recipe.key, describe(each.recipe)),
                    "accuracy": {record.target: accuracy(record) for record in (each.high, each.low)},
                    "trial": {record.target: record.number for record in (each.high, each.low)},
                    "reasons": list(each.reasons),
                }
                for each in differing
            ],
        },
    }


def _recipe(stages: Any, key: str, text: str) -> dict[str, Any]:
    return {"recipe": stages, "recipe_key": key, "recipe_text": text}


def _service(service: Service, view: TargetView) -> dict[str, Any]:
    record, scored = service.record, service.scored
    latency, artifact = record.latency, record.artifact
    return {
        "recipe_key": record.recipe.key,
        "trial": record.number,
        "latency_ms": latency.ms if latency else None,
        "latency_ratio": latency.ratio if latency else None,
        "throughput": view.throughput(record),
        "accuracy_of_target": scored.target,
        "accuracy": accuracy(scored),
        "drop": scored.drop,
        "drop_ci": _ends(scored.drop_ci),
        "size_bytes": artifact.size_bytes if artifact else None,
        "penalty": service.penalty,
        "penalty_of": "latency" if service.is_timed else "size",
    }


def _ends(interval: Interval | None) -> list[float] | None:
    return [interval.low, interval.high] if interval else None


def size(service: Service) -> str:
    """Of the files that ship."""
    return human_bytes(service.record.artifact.size_bytes) if service.record.artifact else "-"
