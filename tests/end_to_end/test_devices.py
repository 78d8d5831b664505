"""Searches whose measurements are made elsewhere: by agents on loopback, over a real ssh, over a link that is bad.

Slow, for each is a whole search, with agents that are processes of their own.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.agents import TOKEN, agent, wait_for
from tests.end_to_end.conftest import MEASURING, Workplace

VARIABLE = "END_TO_END_TOKEN"
SPACE = """
name: few
techniques:
  quantize: {scheme: [fp16, int8_static], samples: [32, 64]}
"""


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, TOKEN)


def target_of(place: Workplace, name: str, device: str, more: str = "") -> str:
    (place.path / f"{name}.yaml").write_text(
        f"name: {name}\nbackend: onnxruntime\ndevice: {device}\n"
        "precisions:\n  fp32: {}\n  fp16: {kernels: storage}\n"
        f"  int8_static: {{operators: [Conv, Gemm, MatMul, Add]}}\n{more}{MEASURING}\n"
    )
    (place.path / "few.yaml").write_text(SPACE)
    return f"{name}.yaml"


def agent_device(*ports: int, patience: float = 60) -> str:
    listed = [f"{{agent: 'http://127.0.0.1:{port}', token_env: {VARIABLE}, patience_s: {patience}}}" for port in ports]
    return listed[0] if len(listed) == 1 else f"[{', '.join(listed)}]"


def search(place: Workplace, target: str, trials: int = 4) -> subprocess.CompletedProcess[str]:
    return place.run("search", "digits", "--target", target, "--space", "few.yaml", "--study", "s", "--trials", trials)


def outcomes(place: Workplace, target: str) -> list[str]:
    return [record["outcome"] for record in place.records("s", target)]


def test_two_agents_share_a_search_and_its_figures_are_whole(place: Workplace, tmp_path: Path) -> None:
    with agent(tmp_path / "one") as one, agent(tmp_path / "two") as two:
        target = target_of(place, "two", agent_device(one.port, two.port))
        done = search(place, target, 4)
        assert done.returncode == 0, done.stderr
        records = place.records("s", "two")
        assert [record["number"] for record in records] == [0, 1, 2, 3]
        assert outcomes(place, "two") == ["complete"] * 4
        assert {record["device"] for record in records} == {f"agent {one.url}", f"agent {two.url}"}
        for record in records:
            assert record["latency"]["ratio"] > 0 and record["val"]["value"] > 0.9 and record["audit"]["layers"]
            samples = np.load(place.path / "results" / "s" / record["samples"])
            assert samples.shape[1] == 4 and len(samples) > 10
        front = place.ok("front", "s")["targets"]["two"]
        assert front["front"] and all(row["test_accuracy"] > 0.9 for row in front["front"])
        listed = {row["device"]: row for row in place.ok("devices")["devices"]}
        for each in (one, two):
            row = listed[f"agent {each.url}"]
            assert row["state"] == "ready" and row["queue"] == 0 and row["latest"]["ratio"] > 0
            assert TOKEN not in str(row) and row["fingerprint"]
        assert TOKEN not in done.stderr + done.stdout
    assert place.ok("devices")["devices"][0]["state"] == "unavailable"


def test_an_agent_that_is_killed_in_the_middle_costs_one_measurement(place: Workplace, tmp_path: Path) -> None:
    """Killed while it measures, and started again on its port: the same trial is done again, none is lost or failed."""
    with ExitStack() as stack:
        first = stack.enter_context(agent(tmp_path / "first"))
        slow = "measuring: {rounds_min: 40, rounds_max: 40, turn_ms: 15, interval: 0.001, time_limit_s: 20}\n"
        name = target_of(place, "away", agent_device(first.port))
        file = place.path / name
        file.write_text(file.read_text().replace(MEASURING, slow))
        running = subprocess.Popen(
            place.command("search", "digits", "--target", name, "--space", "few.yaml", "--study", "s", "--trials", 3),
            cwd=place.path, env=place.environment(), stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        trials = place.path / "results" / "s" / "away" / "trials"
        wait_for(lambda: (trials / "0000.json").exists() and (trials / "0001" / "artifact").exists(), 120)
        wait_for(lambda: bool(first.files()), 60)
        time.sleep(0.5)
        first.process.kill()
        first.process.wait()
        stack.enter_context(agent(tmp_path / "second", port=first.port))
        _, said = running.communicate(timeout=200)
    assert running.returncode == 0, said
    assert outcomes(place, "away") == ["complete"] * 3
    assert "went away" in said and "its measurement is done again" in said


def test_a_search_that_is_killed_is_resumed_and_its_job_is_gone_there(place: Workplace, tmp_path: Path) -> None:
    with agent(tmp_path / "one", grace_s=1.0) as one:
        name = target_of(place, "killed", agent_device(one.port))
        running = subprocess.Popen(
            place.command("search", "digits", "--target", name, "--space", "few.yaml", "--study", "s", "--trials", 4),
            cwd=place.path, env=place.environment(), stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        trials = place.path / "results" / "s" / "killed" / "trials"
        wait_for(lambda: (trials / "0001.json").exists(), 120)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        wait_for(lambda: not one.files())
        done = place.run("resume", "s")
        assert done.returncode == 0, done.stderr
    assert outcomes(place, "killed") == ["complete"] * 4


def test_without_a_device_the_search_says_so_and_keeps_what_it_has(place: Workplace, tmp_path: Path) -> None:
    with agent(tmp_path / "one") as one:
        name = target_of(place, "gone", agent_device(one.port, patience=1))
        assert search(place, name, 2).returncode == 0
    said = place.run("resume", "s", "--trials", 4)
    assert said.returncode == 2 and "no device came within 1 s" in said.stderr and "Traceback" not in said.stderr
    assert outcomes(place, "gone") == ["complete"] * 2
    with agent(tmp_path / "again", port=one.port):
        assert place.run("resume", "s", "--trials", 3).returncode == 0
        assert outcomes(place, "gone") == ["complete"] * 3
        # A study is of one kind of device.
        kept = place.path / "results" / "s" / "gone" / "device.json"
        kept.write_text(kept.read_text().replace("onnxruntime 1", "onnxruntime 0"))
        said = place.refused(2, "resume", "s", "--trials", 4)
        assert "never mixed" in said and "runtime: onnxruntime 0" in said


def test_a_study_of_this_machine_is_not_resumed_on_another(place: Workplace) -> None:
    (place.path / "few.yaml").write_text(SPACE)
    assert search(place, "quick.yaml", 2).returncode == 0
    kept = place.path / "results" / "s" / "quick" / "device.json"
    kept.write_text(kept.read_text().replace('"cores": "', '"cores": "9'))
    said = place.refused(2, "resume", "s", "--trials", 3)
    assert "measured elsewhere or with another runtime (cores: 9" in said and "--study NAME" in said


def test_a_token_that_is_missing_or_wrong_is_said_before_there_is_a_study(
    place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with agent(tmp_path / "one") as one:
        name = target_of(place, "stranger", agent_device(one.port, patience=1))
        monkeypatch.delenv(VARIABLE)
        said = place.refused(2, "search", "digits", "--target", name, "--space", "few.yaml", "--study", "s")
        assert f"${VARIABLE} is empty" in said and not (place.path / "results" / "s").exists()
        monkeypatch.setenv(VARIABLE, "another-token-than-its")
        said = place.refused(2, "search", "digits", "--target", name, "--space", "few.yaml", "--study", "s")
        assert f"${VARIABLE} is refused" in said
        doctor = place.run("doctor", "--target", name, "--json")
        assert doctor.returncode == 1 and "is refused" in doctor.stdout


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A real sshd on loopback with keys of its own; the name of the host as ssh knows it from a configuration."""
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(program).exists() or shutil.which("ssh") is None:
        pytest.skip("needs OpenSSH's server and client: apt-get install openssh-server openssh-client")
    folder = tmp_path / "ssh"
    folder.mkdir(mode=0o700)
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    port = _free_port()
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        f"PidFile none\nPasswordAuthentication no\nStrictModes no\nUsePAM no\n"
    )
    (folder / "config").write_text(
        f"Host bench\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile {folder}/user\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {folder}/known\n  StrictHostKeyChecking accept-new\n"
    )
    # ssh has no variable for its configuration: a program of this name on the path gives it the file.
    (folder / "bin").mkdir()
    wrapper = folder / "bin" / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    with subprocess.Popen([program, "-D", "-e", "-f", folder / "sshd_config"], stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(lambda: subprocess.run([wrapper, "bench", "true"], capture_output=True).returncode == 0)
            yield "bench"
        finally:
            server.terminate()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _agents() -> set[int]:
    """The agents that were started by ssh and live."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"autoshrink.agent" in words:
            found.add(int(folder.name))
    return found


def test_a_search_over_ssh_leaves_nothing_behind(place: Workplace, ssh: str) -> None:
    before = _agents()
    target = target_of(place, "far", f"{{ssh: {ssh}, python: '{sys.executable}'}}")
    seen: set[int] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            seen.update(_agents() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    done = search(place, target, 3)
    over.set()
    watcher.join()
    assert done.returncode == 0, done.stderr
    assert outcomes(place, "far") == ["complete"] * 3 and seen
    assert {record["device"] for record in place.records("s", "far")} == {f"ssh {ssh}"}
    wait_for(lambda: not _agents() - before)


@pytest.mark.parametrize(
    ("host", "python", "words"),
    [
        ("nobody-there.invalid", "", "Could not resolve hostname"),
        ("bench", "/usr/bin/false-python", "No such file"),
        ("bench", "/usr/bin/env", "must work without a question"),
    ],
)
def test_what_ssh_cannot_reach_is_told(place: Workplace, ssh: str, host: str, python: str, words: str) -> None:
    del ssh
    device = f"{{ssh: {host}, python: '{python}'}}" if python else f"{{ssh: {host}}}"
    doctor = place.run("doctor", "--target", target_of(place, "far", device), "--json")
    assert doctor.returncode == 1 and words in doctor.stdout and "Traceback" not in doctor.stderr + doctor.stdout


def _can_make_hosts() -> str:
    """Why this machine cannot have hosts of its own; empty when it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "tc", "iptables"):
        if shutil.which(program) is None:
            return f"needs {program}: apt-get install iproute2 iptables"
    made = subprocess.run(["ip", "netns", "add", "autoshrink-try"], capture_output=True)
    subprocess.run(["ip", "netns", "del", "autoshrink-try"], capture_output=True)
    return "" if made.returncode == 0 else f"no network namespaces here: {made.stderr.decode().strip()}"


@pytest.fixture
def two_hosts() -> Iterator[tuple[list[str], list[str], str]]:
    """Two hosts with a link of 4 Mbit a second that loses one packet of fifty in each direction.

    Gives what goes before a command to run it on each, and the address of the second.
    """
    why = _can_make_hosts()
    if why:
        pytest.skip(why)
    names = [f"autoshrink-{os.getpid()}-{side}" for side in "ab"]

    def do(*words: str) -> None:
        subprocess.run(words, check=True, capture_output=True)

    try:
        for name in names:
            do("ip", "netns", "add", name)
        do("ip", "link", "add", "va", "netns", names[0], "type", "veth", "peer", "name", "vb", "netns", names[1])
        for number, (name, link) in enumerate(zip(names, ("va", "vb"), strict=True), 1):
            inside = ("ip", "netns", "exec", name)
            do(*inside, "ip", "address", "add", f"10.213.7.{number}/24", "dev", link)
            do(*inside, "ip", "link", "set", link, "up")
            do(*inside, "ip", "link", "set", "lo", "up")
            do(
                *inside,
                "tc",
                "qdisc",
                "add",
                "dev",
                link,
                "root",
                "tbf",
                "rate",
                "4mbit",
                "burst",
                "16kb",
                "latency",
                "200ms",
            )
            do(*inside, "iptables", "-A", "INPUT", "-i", link, "-m", "statistic", "--mode", "random",
               "--probability", "0.02", "-j", "DROP")  # fmt: skip
        sides: list[Any] = [["ip", "netns", "exec", name] for name in names]
        yield sides[0], sides[1], "10.213.7.2"
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def test_two_hosts_with_a_lossy_slow_link_between_them(
    place: Workplace, two_hosts: tuple[list[str], list[str], str], tmp_path: Path
) -> None:
    here, there, address = two_hosts
    with subprocess.Popen(
        [*there, sys.executable, "-m", "autoshrink", "agent", "--listen", f"{address}:8765", "--token-env", VARIABLE],
        env={**place.environment(), "AUTOSHRINK_CACHE": str(tmp_path / "there")},
        stderr=subprocess.DEVNULL,
    ) as served:
        try:
            device = f"{{agent: 'http://{address}:8765', token_env: {VARIABLE}, patience_s: 120}}"
            command = place.command(
                *("search", "digits", "--target", target_of(place, "far", device), "--space", "few.yaml"),
                *("--study", "s", "--trials", 4),
            )
            done = subprocess.run(
                [*here, *command], cwd=place.path, env=place.environment(), capture_output=True, text=True, timeout=400
            )
        finally:
            served.send_signal(signal.SIGINT)
    assert done.returncode == 0, done.stderr
    assert outcomes(place, "far") == ["complete"] * 4
    dropped = subprocess.run([*there, "iptables", "-L", "INPUT", "-v", "-n", "-x"], capture_output=True, text=True)
    lost = sum(int(line.split()[0]) for line in dropped.stdout.splitlines() if " DROP " in line)
    assert lost > 0, "the link lost nothing, so nothing was tested"
