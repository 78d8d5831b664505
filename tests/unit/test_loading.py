"""`load_task`: every slip in a user's file is said in one line that names the place, never by a stack trace."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from autoshrink.errors import ConfigError
from autoshrink.tasks import TASKS
from autoshrink.tasks.loading import load_task
from tests import task_files
from tests.task_files import END, GOOD, changed, with_forward

Write = Callable[..., str]
Problem = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return partial(task_files.write, tmp_path)


@pytest.fixture
def problem(tmp_path: Path) -> Problem:
    return partial(task_files.problem, tmp_path)


class TestWhatCanBeGiven:
    def test_a_file_with_a_task(self, write: Write) -> None:
        path = write(GOOD + END)
        task = load_task(path)
        assert (task.name, task.source) == ("mine", path)

    def test_a_file_with_a_function(self, write: Write) -> None:
        assert load_task(write(GOOD + "def task():\n    return Task(**arguments)\n")).name == "mine"

    def test_a_function_whose_parameters_have_defaults(self, write: Write) -> None:
        text = GOOD + "def task(name='other', *rest, **more):\n    return Task(**{**arguments, 'name': name})\n"
        assert load_task(write(text)).name == "other"

    def test_a_relative_path(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(Path(write(GOOD + END)).parent)
        assert load_task("mine.py").source == "mine.py"

    def test_a_task_without_training_data(self, write: Write) -> None:
        assert not load_task(write(changed(train="None", loss="None"))).trains

    def test_a_metric_of_the_whole_set(self, write: Write) -> None:
        load_task(write(changed(metric="lambda outputs, targets: np.float32(outputs['y'].mean())")))

    def test_an_output_mapping_and_integer_values(self, write: Write) -> None:
        text = with_forward("y = self.second(self.first(x))\nreturn {'y': y, 'class': y.argmax(1)}")
        text = text.replace('{"y": "logits"}', '{"y": "logits", "class": "values"}')
        assert list(load_task(write(text)).outputs) == ["y", "class"]

    def test_an_unknown_name_lists_the_built_in_ones(self) -> None:
        with pytest.raises(ConfigError) as caught:
            load_task("fashion")
        assert all(name in str(caught.value) for name in ["'fashion'", ".py", *TASKS])

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"no\.py: there is no such file"):
            load_task(str(tmp_path / "no.py"))

    def test_a_folder_is_no_file(self, tmp_path: Path) -> None:
        (tmp_path / "folder.py").mkdir()
        with pytest.raises(ConfigError, match=r"folder\.py: there is no such file"):
            load_task(str(tmp_path / "folder.py"))


class TestRunningTheFile:
    def test_a_syntax_error(self, problem: Problem) -> None:
        assert problem("x = 1\ny = = 2\n").startswith("mine.py:2: SyntaxError: invalid syntax")

    def test_wrong_indentation(self, problem: Problem) -> None:
        assert problem("def f():\nx = 1\n").startswith("mine.py:2: IndentationError: ")

    def test_a_file_that_is_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_bytes(b"x = '\xff\xfe'\n")
        with pytest.raises(ConfigError, match=r"mine\.py:.*SyntaxError"):
            load_task(str(tmp_path / "mine.py"))

    def test_a_module_that_is_not_installed(self, problem: Problem) -> None:
        said = problem("x = 1\nimport no_such_module_at_all\n")
        assert said.startswith(
            "mine.py: ModuleNotFoundError: No module named 'no_such_module_at_all' (mine.py:2); install it"
        )

    def test_a_module_that_fails_inside_another_of_the_users(self, problem: Problem, write: Write) -> None:
        write("import no_such_module_at_all\n", "helper_that_fails.py")
        assert "'no_such_module_at_all' (mine.py:3)" in problem("\n\nimport helper_that_fails\n")

    def test_a_syntax_error_in_another_file_of_the_users(self, problem: Problem, write: Write) -> None:
        write("\n)\n", "helper_that_breaks.py")
        assert problem("import helper_that_breaks\n").startswith("helper_that_breaks.py:2: SyntaxError")

    def test_an_exception(self, problem: Problem) -> None:
        text = "def f():\n    return {}['key']\n\nf()\n"
        assert problem(text) == "mine.py: KeyError: 'key' (mine.py:2)"

    def test_an_exception_without_a_message(self, problem: Problem) -> None:
        assert problem("assert 1 == 2\n") == "mine.py: AssertionError (mine.py:1)"

    def test_a_script_that_ends_the_program(self, problem: Problem) -> None:
        said = problem("import sys\nsys.exit(3)\n")
        assert said.startswith("mine.py: ends the program with SystemExit: 3 (mine.py:2); put what is to run only as")

    def test_an_interrupt_is_not_swallowed(self, write: Write) -> None:
        with pytest.raises(KeyboardInterrupt):
            load_task(write("raise KeyboardInterrupt\n"))

    def test_a_failed_file_leaves_nothing_behind(self, problem: Problem) -> None:
        modules, path = set(sys.modules), list(sys.path)
        problem("raise ValueError('no')\n")
        assert set(sys.modules) == modules
        assert sys.path == path


class TestTheFilesFolder:
    def test_a_module_beside_the_file_can_be_imported(self, write: Write) -> None:
        write("NAME = 'from-the-helper'\n", "helper_beside.py")
        path = list(sys.path)
        text = "from helper_beside import NAME\n" + GOOD + "arguments['name'] = NAME\n" + END
        assert load_task(write(text)).name == "from-the-helper"
        assert sys.path == path

    def test_also_by_the_function_task(self, write: Write) -> None:
        write("NAME = 'late'\n", "helper_late.py")
        text = GOOD + "def task():\n    from helper_late import NAME\n    return Task(**{**arguments, 'name': NAME})\n"
        assert load_task(write(text)).name == "late"

    def test_an_import_that_comes_too_late_is_said(self, problem: Problem, write: Write) -> None:
        write("", "helper_too_late.py")
        text = GOOD.replace("    torch.manual_seed(0)\n", "    import helper_too_late\n") + END
        said = problem(text)
        assert said.startswith("mine.py:model: ModuleNotFoundError: No module named 'helper_too_late'")
        assert "import it at the top" in said

    def test_modules_of_one_name_in_two_folders_are_two(self, write: Write) -> None:
        text = "from helper_twice import NAME\n" + GOOD + "arguments['name'] = NAME\n" + END
        for name in ("a", "b"):
            write(f"NAME = {name!r}\n", f"{name}/helper_twice.py")
            assert load_task(write(text, f"{name}/mine.py")).name == name

    def test_files_of_one_name_in_two_folders_are_two(self, write: Write) -> None:
        a, b = (load_task(write(GOOD + END, f"{name}/mine.py")) for name in ("a", "b"))
        assert type(a.model()) is not type(b.model())
        assert inspect.getsourcefile(type(a.model())) == str(a.source)
        assert inspect.getsourcefile(type(b.model())) == str(b.source)

    def test_an_edited_file_is_run_anew(self, write: Write) -> None:
        load_task(write(GOOD + END))
        assert load_task(write(changed(name="'another-name'"))).name == "another-name"

    def test_a_file_may_define_dataclasses(self, write: Write) -> None:
        text = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        load_task(write(text + "@dataclass\nclass Size:\n    width: int\n" + GOOD + END))


class TestWhatTheFileDefines:
    def test_no_task(self, problem: Problem) -> None:
        assert problem("x = 1\n").startswith("mine.py: defines no `task`; write `task = Task(...)`, or")

    def test_another_type(self, problem: Problem) -> None:
        assert problem("task = {}\n").startswith("mine.py:task: is a dict; write")

    def test_a_class(self, problem: Problem) -> None:
        assert problem("class task:\n    pass\n").startswith("mine.py:task: is the class task; write")

    def test_a_function_with_arguments(self, problem: Problem) -> None:
        said = problem("def task(width, depth, seed=0):\n    pass\n")
        assert said.startswith("mine.py:task: the function needs width or depth; write")

    def test_a_function_that_returns_something_else(self, problem: Problem) -> None:
        said = problem("def task():\n    pass\n")
        assert said == "mine.py:task: the function returns a NoneType; it must return a Task"

    def test_a_function_that_fails(self, problem: Problem) -> None:
        assert problem("def task():\n    return 1 / 0\n") == (
            "mine.py:task: ZeroDivisionError: division by zero (mine.py:2)"
        )

    def test_a_task_without_a_needed_attribute(self, problem: Problem) -> None:
        text = GOOD + "del arguments['metric']\n" + END
        assert "missing 1 required keyword-only argument: 'metric'" in problem(text)


class TestKinds:
    @pytest.mark.parametrize(
        ("attribute", "value", "said"),
        [
            ("name", "3", "is a int; it must be a string"),
            ("model", "Net().eval()", "is the model itself; it must be a function that gives a fresh one"),
            ("model", "None", "is a NoneType; it must be a function"),
            ("metric", "'accuracy'", "is a str; it must be a function"),
            ("outputs", "['y']", "is a list; it must be a mapping"),
            ("keep", "'second'", "is a str; it must be a tuple of layer names"),
            ("classes", "['cat', 'dog']", "is a list; it must be a tuple of names"),
            ("classes", "('cat', 2)", "holds 2; it must be a tuple of names"),
            ("example_inputs", "samples(1).inputs['x']", "is a ndarray; it must be a mapping"),
            ("calibration", "{'x': torch.zeros(8, 3)}", "'x' is a Tensor; it must be a numpy array"),
            ("calibration", "{'x': np.array(1.0)}", "'x' has no dimensions"),
            ("val", "(samples(4).inputs, samples(4).targets)", "is a tuple; it must be a Split"),
            ("val", "Split(samples(2).inputs, {'label': np.array(['a', 'b'])})", "'label' is of dtype <U1; it must"),
            ("test", "Split(samples(2).inputs, [0, 1])", "is a list; it must be a mapping"),
            ("train", "samples(8)", "is a Split; it must be a TrainingSet"),
            ("train", "TrainingSet(samples(8), 0)", "batch_size is 0; it must be 1 or more"),
        ],
    )
    def test_it_names_the_attribute_the_value_and_the_rule(
        self, problem: Problem, attribute: str, value: str, said: str
    ) -> None:
        assert problem(changed(**{attribute: value})).startswith(f"mine.py:{attribute}: {said}")

    def test_every_problem_comes_at_once(self, problem: Problem) -> None:
        said = problem(changed(name="3", model="None", val="None"))
        assert [line.split(":")[1] for line in said.splitlines()] == ["name", "model", "val"]

    def test_the_contract_is_checked(self, problem: Problem) -> None:
        said = problem(changed(calibration="{'x': np.zeros((8, 2), np.float32)}"))
        assert said == "mine.py:calibration: 'x' has shape (8, 2); example_inputs says [N, 3]"
