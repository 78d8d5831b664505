"""docs/task.md and the example it stands on: what they say is what happens."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
import shutil
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer

from autoshrink.backends import BACKENDS, get_backend
from autoshrink.cli import app
from autoshrink.cli_agent import agent
from autoshrink.cli_dashboard import dashboard
from autoshrink.config import load_target, profile_names
from autoshrink.dashboard.app.pages import OWN, PAGES
from autoshrink.devices import DEVICES
from autoshrink.errors import ConfigError
from autoshrink.explain.rules import RULES
from autoshrink.explain.subject import FORMS
from autoshrink.target import KEYS_OF_DEVICES
from autoshrink.task import Task, call
from autoshrink.tasks import TASKS
from autoshrink.tasks.loading import load_task

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "task.md").read_text()
EXAMPLE = "docs/examples/my_task.py"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.chdir(ROOT)
    return load_task(EXAMPLE)


class TestTheGuide:
    def test_its_code_runs_in_the_order_of_the_page(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(ROOT)
        blocks = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
        assert len(blocks) == 5
        namespace: dict[str, Any] = {}
        for block in blocks:
            exec(compile(block, "docs/task.md", "exec"), namespace)
        assert capsys.readouterr().out == "parts 1000 val samples\n"

    def test_its_table_has_every_attribute_with_its_default(self) -> None:
        rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (.*?) \|$", GUIDE.partition("## The attributes")[2], re.MULTILINE))
        assert list(rows) == [field.name for field in fields(Task)]
        for field in fields(Task):
            if field.name == "source":
                expected = "filled in by `load_task`"
            elif field.default is MISSING:
                expected = "needed"
            else:
                expected = "`" + repr(field.default).replace("'", '"') + "`"
            assert rows[field.name] == expected

    def test_it_names_every_built_in_task(self) -> None:
        rows = re.findall(r"^\| `([\w-]+)` \|", GUIDE.partition("## Five minutes")[0], re.MULTILINE)
        assert rows == list(TASKS)

    @pytest.mark.parametrize(
        "page",
        [
            ROOT / "docs" / "task.md",
            ROOT / "docs" / "devices.md",
            ROOT / "docs" / "dashboard.md",
            ROOT / "CONTRIBUTING.md",
            *(ROOT / "docs" / "decisions").glob("*.md"),
        ],
    )
    def test_its_links_lead_somewhere(self, page: Path) -> None:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), link

    def test_every_decision_is_listed(self) -> None:
        folder = ROOT / "docs" / "decisions"
        listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text())
        assert listed == sorted(path.name for path in folder.glob("0*.md"))


class TestTheExample:
    def test_it_has_two_inputs_of_two_dtypes_and_two_outputs_of_two_kinds(self, example: Task) -> None:
        assert {name: str(array.dtype) for name, array in example.example_inputs.items()} == {
            "image": "float32",
            "camera": "int64",
        }
        assert example.outputs == {"kind": "logits", "size": "values"}

    def test_its_model_is_good_on_val_and_on_test(self, example: Task) -> None:
        for split in (example.val, example.test):
            assert score(example, split.inputs, split.targets) > 0.95

    def test_it_needs_the_camera(self, example: Task) -> None:
        swapped = {**example.val.inputs, "camera": 1 - example.val.inputs["camera"].astype(np.int64)}
        assert score(example, swapped, example.val.targets) < 0.2

    def test_its_script_writes_the_weights_that_are_shipped(self, tmp_path: Path) -> None:
        """Of 20 epochs one is run here: enough to see the file written and the loss on its way."""
        copy = tmp_path / "my_task.py"
        shutil.copy(ROOT / EXAMPLE, copy)
        with pytest.raises(ConfigError, match=r"my_task\.py:model: FileNotFoundError.*my_task\.safetensors"):
            load_task(str(copy))
        spec = importlib.util.spec_from_file_location("my_task_copy", copy)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        threads = torch.get_num_threads()
        try:
            share = module.train_and_save(epochs=1)
        finally:
            torch.set_num_threads(threads)
        task = load_task(str(copy))
        assert score(task, task.test.inputs, task.test.targets) == pytest.approx(share, abs=0.002)
        assert 0.05 < share < 0.95, "one epoch is not enough, and better than nothing"


def score(task: Task, inputs: Any, targets: Any) -> float:
    with torch.no_grad():
        outputs = call(task.model(), {name: torch.tensor(array) for name, array in inputs.items()}, tuple(task.outputs))
    return float(np.mean(task.metric({name: output.numpy() for name, output in outputs.items()}, targets)))


class TestExplain:
    page = (ROOT / "docs" / "explain.md").read_text()

    def test_it_names_every_rule(self) -> None:
        rows = re.findall(r"^\| `(\w+)` \|", self.page.partition("## The rules")[2], re.MULTILINE)
        assert rows == [rule.__name__ for rule in RULES]

    def test_it_names_every_file_that_can_be_explained(self) -> None:
        table = self.page.partition("| target's backend |")[2].partition("\n\n")[0]
        for backend, forms in FORMS.items():
            (row,) = [line for line in table.splitlines() if f"`{backend}`" in line]
            assert set(re.findall(r"`(\.\w+)`", row)) >= set(forms)

    def test_it_says_of_every_backend_what_times_there_are(self) -> None:
        table = self.page.partition("| backend | times per kernel |")[2].partition("\n\n")[0]
        named = {
            name
            for line in table.splitlines()
            for name in re.findall(r"`(\w+)`", line.split("|")[1:2][0] if "|" in line else "")
        }
        assert named == set(BACKENDS)

    def test_its_commands_are_understood(self) -> None:
        block = self.page.partition("```console\n")[2].partition("```")[0]
        for line in block.replace("TRIAL", "1").splitlines():
            command = typer.main.get_command(app).commands["explain"]  # type: ignore[attr-defined]
            assert command.make_context("explain", shlex.split(line)[2:]).params


class TestTheTargets:
    page = (ROOT / "docs" / "targets.md").read_text()

    def test_it_names_every_shipped_profile(self) -> None:
        table = self.page.partition("| target |")[2].partition("\n\n")[0]
        cells = " ".join(line.split("|")[1] for line in table.splitlines()[1:])
        named = set(re.findall(r"`([a-z0-9-]+)`", cells))
        full = {name if not name.startswith("-") else f"tensorrt-rtx{name}" for name in named}
        assert full == set(profile_names("targets"))

    def test_it_names_every_option_of_every_backend(self) -> None:
        rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", self.page.partition("## Options")[2], re.MULTILINE))
        known = {name: set(get_backend(name).options) for name in BACKENDS if get_backend(name).options}
        assert set(rows) == set(known)
        for backend, options in known.items():
            assert options <= set(re.findall(r"`(\w+)`", rows[backend])), backend


class TestTheDevices:
    page = (ROOT / "docs" / "devices.md").read_text()

    def test_it_names_every_way_to_a_device_and_its_profile(self) -> None:
        assert set(re.findall(r"^\| `\{(\w+): ", self.page, re.MULTILINE)) == set(DEVICES) == set(KEYS_OF_DEVICES)
        with_devices = {name for name in profile_names("targets") if load_target(name).devices}
        assert with_devices == {"agent", "ssh", "phone-browser", "android-adb"}
        assert all(name in self.page for name in with_devices)

    def test_its_profiles_are_such(self, tmp_path: Path) -> None:
        blocks = re.findall(r"```yaml\n(.*?)```", self.page, re.DOTALL)
        assert len(blocks) == 2
        for block in blocks:
            file = tmp_path / "target.yaml"
            file.write_text(f"name: mine\nbackend: litert\nprecisions: {{fp32: {{}}}}\n{block}")
            assert load_target(str(file)).devices

    def test_it_names_every_option_of_the_agent(self) -> None:
        rows = " ".join(re.findall(r"^\| (`--.*?) \|", self.page, re.MULTILINE))
        named = set(re.findall(r"--([a-z-]+)", rows))
        parameters = set(inspect.signature(agent).parameters)
        assert named == {name.replace("_", "-") for name in parameters}


class TestTheDashboard:
    page = (ROOT / "docs" / "dashboard.md").read_text()

    def test_it_says_of_every_view_what_it_answers(self) -> None:
        table = self.page.partition("| view |")[2].partition("\n\n")[0]
        rows = re.findall(r"^\| (\w+) \| .+ \| .+ \|$", table, re.MULTILINE)
        assert sorted(rows) == sorted(each.title for each in (*OWN, *PAGES))

    def test_its_commands_are_understood(self) -> None:
        block = self.page.partition("```console\n")[2].partition("```")[0]
        commands = [shlex.split(line)[1:] for line in block.splitlines() if line.startswith("autoshrink ")]
        assert {words[0] for words in commands} == {"dashboard", "report", "front"}
        for name, *words in commands:
            command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
            assert command.make_context(name, words).params

    def test_it_names_every_option(self) -> None:
        named = set(re.findall(r"^\| `--([a-z-]+)", self.page, re.MULTILINE))
        parameters = set(inspect.signature(dashboard).parameters) - {"results"}
        assert named == {name.removesuffix("_browser").replace("_", "-") for name in parameters}
