"""YAML to types: target profiles and search spaces, every problem reported at once as `file:key: ...`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from autoshrink.backends import BACKENDS, get_backend
from autoshrink.errors import ConfigError
from autoshrink.target import Target
from autoshrink.techniques import TECHNIQUES, get_technique
from autoshrink.techniques.base import Parameter
from autoshrink.techniques.keys import read_key
from autoshrink.techniques.order import ORDERS
from autoshrink.types import Choice, Dimension, Range, Space

SPACE_KEYS = ("name", "summary", "orders", "techniques")
_PACKAGE = Path(__file__).parent


def profile_folder(kind: str) -> Path:
    """Where the shipped profiles of a kind (`targets`, `search_spaces`) lie: in the repository, or in the package."""
    beside = _PACKAGE.parent / kind
    return beside if beside.is_dir() and (_PACKAGE.parent / "pyproject.toml").is_file() else _PACKAGE / kind


def profile_names(kind: str) -> list[str]:
    """The names of the shipped profiles."""
    return sorted(path.stem for path in profile_folder(kind).glob("*.yaml"))


def load_target(reference: str) -> Target:
    """The target of a shipped name or of a YAML file.

    Raises:
        ConfigError: no such profile, or what is wrong in it, all problems at once.
    """
    path = _find("targets", reference)
    data = _read(path)
    one_device = isinstance(data.get("device"), dict)
    if "devices" in data:
        raise ConfigError([f"{path}:devices: unknown key; one remote device or a list of them stands under device"])
    if isinstance(data.get("device"), dict | list):
        listed = data.pop("device")
        data["devices"] = [listed] if one_device else listed
    try:
        target = TypeAdapter(Target).validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise ConfigError(
            f"{path}:{_key(_as_written(e['loc'], one_device))}: {_explain(e, Target)}" for e in error.errors()
        ) from error
    except TypeError as error:
        raise ConfigError([f"{path}: holds a value that is no text, number, list or mapping ({error})"]) from error
    problems = []
    if not is_name(target.name):
        problems.append(f"{path}:name: {target.name!r} may hold letters, digits, '.', '-' and '_' only")
    if target.backend not in BACKENDS and ":" not in target.backend:
        problems.append(f"{path}:backend: {target.backend!r}; allowed are {', '.join(BACKENDS)}, or MODULE:CLASS")
    problems += [f"{path}:options.{problem}" for problem in _option_problems(target)]
    problems += [f"{path}:precisions.{problem}" for problem in _precision_problems(target)]
    avoid: dict[str, str] = {}
    for key, why in target.avoid.items():
        try:
            avoid[read_key(key)] = why
        except ValueError as error:
            problems.append(f"{path}:avoid.{key}: {error}")
    if problems:
        raise ConfigError(problems)
    return dataclasses.replace(target, avoid=avoid)


def _as_written(location: tuple[int | str, ...], one_device: bool) -> tuple[int | str, ...]:
    """The place in the file of what is at `location` in the type: remote devices stand under `device`."""
    if location[:1] != ("devices",):
        return location
    return ("device", *location[2 if one_device else 1 :])


def _option_problems(target: Target) -> Iterator[str]:
    """What is wrong with the options of a target, as `key: why`; nothing of a backend that is not there."""
    try:
        known = get_backend(target.backend).options
    except (KeyError, ImportError, AttributeError):
        return
    for name, value in target.options.items():
        if name not in known:
            yield f"{name}: unknown option of {target.backend}; allowed are {', '.join(known) or 'none'}"
            continue
        allowed = known[name].allowed
        if allowed is None:
            if not isinstance(value, str):
                yield f"{name}: {value!r} must be a text"
        elif not _allows(allowed, value):
            yield f"{name}: {value!r} not allowed; {_said(allowed)}"


def _precision_problems(target: Target) -> Iterator[str]:
    """What is wrong with the precisions of a target, as `key: why`; nothing of a backend that is not there."""
    try:
        form = get_backend(target.backend).form
    except (KeyError, ImportError, AttributeError):
        return
    for name, precision in target.precisions.items():
        if form == "program" and precision.weight_bits is not None:
            yield f"{name}.weight_bits: {target.backend} quantizes by itself, to 8 bits; leave it out"


def load_space(reference: str) -> Space:
    """The space of a shipped name or of a YAML file.

    Raises:
        ConfigError: no such space, or what is wrong in it, all problems at once.
    """
    path = _find("search_spaces", reference)
    data = _read(path)
    problems: list[str] = []
    for key in data:
        if key not in SPACE_KEYS:
            problems.append(f"{path}:{key}: unknown key; allowed are {', '.join(SPACE_KEYS)}")
    name = data.get("name")
    if not isinstance(name, str) or not is_name(name):
        problems.append(f"{path}:name: {name!r} must be a text of letters, digits, '.', '-' and '_'")
    if not isinstance(data.get("summary", ""), str):
        problems.append(f"{path}:summary: {data['summary']!r} must be a text")
    orders = data.get("orders", ["pipeline"])
    named = orders if isinstance(orders, list) else []
    if not named or any(order not in list(ORDERS) for order in named) or len(set(named)) < len(named):
        problems.append(f"{path}:orders: {orders!r} must be a list, without repetition, of {', '.join(ORDERS)}")
    techniques: dict[str, dict[str, Dimension]] = {}
    listed = data.get("techniques")
    if not isinstance(listed, Mapping) or not listed:
        problems.append(f"{path}:techniques: must be a mapping of technique to its parameters, not {listed!r}")
        listed = {}
    for technique, parameters in listed.items():
        key = f"techniques.{technique}"
        if technique not in TECHNIQUES:
            problems.append(f"{path}:{key}: unknown technique; allowed are {', '.join(TECHNIQUES)}")
        elif not isinstance(parameters, Mapping):
            problems.append(f"{path}:{key}: must be a mapping of parameter to values, not {parameters!r}")
        else:
            known = get_technique(technique).parameters
            dimensions = {}
            for parameter, values in parameters.items():
                try:
                    dimensions[parameter] = _dimension(known, parameter, values)
                except ValueError as error:
                    problems.append(f"{path}:{key}.{parameter}: {error}")
            techniques[technique] = dimensions
    if problems:
        raise ConfigError(problems)
    place = list(TECHNIQUES)
    in_place = dict(sorted(techniques.items(), key=lambda item: place.index(item[0])))
    return Space(str(name), in_place, data.get("summary", ""), tuple(orders))


def _dimension(known: Mapping[str, Parameter], name: str, values: Any) -> Dimension:
    if name not in known:
        raise ValueError(f"unknown parameter; allowed are {', '.join(known) or 'none'}")
    allowed = known[name].allowed
    if isinstance(values, Mapping):
        return _range(allowed, values)
    listed = tuple(values) if isinstance(values, list) else (values,)
    if not listed:
        raise ValueError("is an empty list; give one value or more, or leave the parameter out for its default")
    wrong = [value for value in listed if not _allows(allowed, value)]
    if wrong:
        raise ValueError(f"{', '.join(map(repr, wrong))} not allowed; {_said(allowed)}")
    if len(set(listed)) < len(listed):
        raise ValueError(f"{list(listed)} has a value twice")
    return Choice(listed)


def _range(allowed: Choice | Range, values: Mapping[str, Any]) -> Dimension:
    extra = sorted(set(values) - {"low", "high", "step"})
    numbers = all(_is_number(value) for value in values.values())
    if extra or not numbers or not {"low", "high"} <= set(values):
        raise ValueError(f"{dict(values)!r} is no range; a range is {{low: NUMBER, high: NUMBER, step: NUMBER}}")
    if isinstance(allowed, Choice):
        raise ValueError(f"takes no range; {_said(allowed)}")
    low, high, step = float(values["low"]), float(values["high"]), values.get("step")
    if not allowed.low <= low < high <= allowed.high:
        raise ValueError(
            f"low {low:g} and high {high:g} must satisfy {allowed.low:g} <= low < high <= {allowed.high:g}"
        )
    if step is not None and not 0 < step <= high - low:
        raise ValueError(f"step {step:g} must be over 0 and at most high - low = {high - low:g}")
    return Range(low, high, None if step is None else float(step))


def _allows(allowed: Choice | Range, value: Any) -> bool:
    if isinstance(allowed, Choice):
        return any(value == other and type(value) is type(other) for other in allowed.values)
    # 0 is below many ranges and always means: leave this technique out.
    return _is_number(value) and (value == 0 or allowed.low <= value <= allowed.high)


def _said(allowed: Choice | Range) -> str:
    if isinstance(allowed, Choice):
        return f"allowed are {', '.join(map(str, allowed.values))}"
    return f"allowed are numbers from {allowed.low:g} to {allowed.high:g}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_name(name: str) -> bool:
    """Whether a text can name a target, a space or a study, and so a file or folder."""
    return bool(name) and name[0] not in ".-" and all(c.isascii() and (c.isalnum() or c in "._-") for c in name)


def _find(kind: str, reference: str) -> Path:
    path = Path(reference)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    shipped = profile_folder(kind) / f"{reference}.yaml"
    if not is_name(reference) or not shipped.is_file():
        raise ConfigError(
            [f"{reference!r}: unknown {kind[:-1].replace('_', ' ')}; there are {', '.join(profile_names(kind))}, "
             "or give the path of a .yaml file"]
        )  # fmt: skip
    return shipped


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror or error}"]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError([f"{path}{line}: is not YAML: {getattr(error, 'problem', None) or error}"]) from error
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ConfigError([f"{path}: must be a mapping of keys to values, not {type(data).__name__}"])
    return data


def _key(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location if part != "[key]") or "(top)"


def _explain(error: Any, root: type) -> str:
    """What pydantic found, with the value and what is allowed."""
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"unknown key; allowed are {', '.join(_fields_at(root, error['loc'][:-1]))}"
    if error["type"] in ("missing", "missing_argument"):
        return "is missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    return message if error["type"] == "value_error" else f"{error['input']!r}: {message[0].lower()}{message[1:]}"


def _fields_at(root: type, location: tuple[int | str, ...]) -> Iterator[str]:
    """The field names of the dataclass at `location` under `root`."""
    kind: Any = root
    for part in location:
        if dataclasses.is_dataclass(kind):
            kind = get_type_hints(kind).get(str(part), kind)
        elif get_args(kind):
            kind = [each for each in get_args(kind) if each is not ...][-1]
    return (field.name for field in dataclasses.fields(kind))
