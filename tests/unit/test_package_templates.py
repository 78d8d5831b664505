"""How the files of a package are filled in, and that there are some for every runtime."""

from __future__ import annotations

from importlib import resources

import pytest

from autoshrink.backends import BACKENDS
from autoshrink.package.templates import Raw, fill, listed
from autoshrink.package.worlds import WORLDS

PORTS = {"inputs": listed([{"name": "a"}, {"name": "b"}]), "outputs": listed([{"name": "y"}])}


def test_values_are_put_in_and_everything_else_stays() -> None:
    text = '@Override f(@{name}, ${x}, "@{name}", @available) { }\n'
    assert fill(text, {"name": "n"}, {}, ".java") == '@Override f(n, ${x}, "n", @available) { }\n'


@pytest.mark.parametrize(
    "lines", ["@each inputs\n@{name}@{comma}\n@end\n", "  // @each inputs\n@{name}@{comma}\n  // @end\n"]
)
def test_a_block_comes_once_for_every_port(lines: str) -> None:
    assert fill(f"[\n{lines}]\n", {"name": "not this"}, PORTS, ".js") == "[\na,\nb\n]\n"


def test_literals_are_escaped_for_their_language() -> None:
    values = {"name": 'a"b\\$c'}
    assert fill('"@{name}"', values, {}, ".java") == '"a\\"b\\\\$c"'
    assert fill('"@{name}"', values, {}, ".kt") == '"a\\"b\\\\\\$c"', "a dollar would begin an expression"
    assert fill("@{name}", values, {}, ".md") == 'a"b\\$c'
    assert fill("@{name}", {"name": Raw('{"x"}')}, {}, ".c") == '{"x"}'


def test_what_is_missing_is_an_error() -> None:
    with pytest.raises(KeyError, match="other"):
        fill("@{other}", {"name": "n"}, {}, ".c")
    with pytest.raises(ValueError, match="line 2: @each inputs has no @end"):
        fill("a\n@each inputs\nb\n", {}, PORTS, ".c")


def test_every_runtime_has_a_runner_or_a_program_that_exists() -> None:
    assert set(WORLDS) == set(BACKENDS)
    here = resources.files("autoshrink.package")
    for world in WORLDS.values():
        assert world.runner or world.snippets
        assert not world.runner or here.joinpath("runners", world.runner).is_file()
        assert not world.snippets or here.joinpath("snippets", world.snippets, "usage.md").is_file()
