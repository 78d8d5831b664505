"""The flags of LiteRT's benchmark_model, and its output: lines as its sources have them, with numbers of our own."""

from __future__ import annotations

import pytest

from autoshrink.devices.adb_benchmark import Benchmark, flags, parse_benchmark, why_failed

PARTLY = (
    "Explicitly applied XNNPACK delegate, and the model graph will be partially executed by the delegate w/ 3 delegate "
    "kernels."
)
NEW = """INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Num threads: [1]
INFO: Graph: [/data/local/tmp/a]
INFO: Signature to run: []
INFO: Loaded model /data/local/tmp/a
INFO: Initialized TensorFlow Lite runtime.
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
VERBOSE: Replacing 18 out of 20 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 3 partitions.
INFO: @PARTLY@
INFO: The input model file size (MB): 1.25
INFO: Initialized session in 7.5ms.
INFO: Running benchmark for at least 3 iterations and at least 0.25 seconds but terminate if exceeding 99 seconds.
INFO: count=120 first=9000 curr=2000 min=1990 max=9000 avg=2100.5 std=600 p5=1995 median=2010 p95=2300

INFO: Running benchmark for at least 3 iterations and at least 0.5 seconds but terminate if exceeding 99 seconds.
INFO: count=249 first=2002 curr=2001 min=1980 max=2600 avg=2006.25 std=40 p5=1990 median=2003 p95=2100

INFO: Inference timings in us: Init: 7500, First inference: 9000, Warmup (avg): 2100.5, Inference (avg): 2006.25
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual one.
INFO: Memory footprint delta from the start of the tool (MB): init=2.5 overall=3.5
INFO: Overall peak memory footprint (MB) via periodic monitoring: 13.25
INFO: Memory status at the end of exeution:
INFO: - VmRSS              : 13 MB
""".replace("@PARTLY@", PARTLY)
OLD = """STARTING!
Unconsumed cmdline flags: --use_xnnpack=true
Min num runs: [3]
Loaded model /data/local/tmp/a
resolved reporter
Initialized session in 9.9ms
Running benchmark for at least 1 iterations and at least 0.5 seconds
count=7 first=127000 curr=66000 min=66000 max=127000 avg=76000.5 std=20944

Running benchmark for at least 10 iterations and at least 1 seconds
count=15 first=66753 curr=66800 min=66699 max=66838 avg=66767.5 std=39

Average inference timings in us: Warmup: 76000.5, Init: 9900, no stats: 66767.5
"""


def test_what_a_new_program_prints_is_read() -> None:
    found = parse_benchmark(NEW)
    assert found == Benchmark(249, pytest.approx(2006.25e-6), int(13.25 * 2**20), (PARTLY,))


def test_what_an_old_program_prints_is_read() -> None:
    found = parse_benchmark(OLD)
    assert found == Benchmark(15, pytest.approx(66767.5e-6), 0, ("Unconsumed cmdline flags: --use_xnnpack=true",))


def test_calls_that_all_took_equally_long_and_slow_ones_are_read() -> None:
    statistics = "count=249 first=2002 curr=2001 min=1980 max=2600 avg=2006.25 std=40 p5=1990 median=2003 p95=2100"
    same = NEW.replace(statistics, "count=50 curr=13(all same)").replace("(avg): 2006.25", "(avg): 13")
    assert parse_benchmark(same).seconds == pytest.approx(13e-6)
    once = NEW.replace(statistics, "count=1 curr=2000").replace("(avg): 2006.25", "(avg): 2000")
    assert (parse_benchmark(once).calls, parse_benchmark(once).seconds) == (1, pytest.approx(2e-3))
    slow = NEW.replace("avg=2006.25", "avg=2.34568e+06").replace("(avg): 2006.25", "(avg): 2.34568e+06")
    assert parse_benchmark(slow).seconds == pytest.approx(2.34568)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has not the lines of statistics"),
        ("\x00 count=3 avg=9", "has not the lines of statistics"),
        (NEW.partition("INFO: Running benchmark for at least 3 iterations and at least 0.5")[0], "has not the lines"),
        (NEW.partition("INFO: Inference timings")[0], "has not the lines"),
        (NEW.replace("count=249 first=2002 curr=2001", "count=0 first=2002 curr=2001"), "has no time of a call"),
        (NEW.replace("avg=2006.25 std=40", "avg=nan std=40"), "has no time of a call"),
        (NEW.replace("avg=2006.25 std=40", "avg=fast std=40"), "says 2001 us a call in one line and 2006.25"),
        (NEW.replace("(avg): 2006.25", "(avg): 4006.25"), "says 2006.25 us a call in one line and 4006.25 in another"),
        (NEW.replace("avg=2006.25", "avg=-1"), "has no time of a call"),
        (NEW.replace("avg=2006.25", "avg=0").replace("(avg): 2006.25", "(avg): 0"), "too short for its clock"),
    ],
)
def test_other_text_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_benchmark(text)
    assert why in str(caught.value)


def test_text_that_was_cut_off_gives_the_right_time_or_none() -> None:
    whole = parse_benchmark(NEW)
    read = 0
    for end in range(len(NEW)):
        try:
            found = parse_benchmark(NEW[:end])
        except ValueError:
            continue
        read += 1
        assert (found.calls, found.seconds) == (whole.calls, whole.seconds)
    assert read > 0


def test_the_flags_are_those_of_the_program() -> None:
    inputs = [("/a", (1, 3, 8)), ("/b", (1, 4))]
    assert flags("/g", 2, 3, 0.5, 98.2, inputs) == [
        "--graph=/g",
        "--num_threads=2",
        "--warmup_runs=3",
        "--warmup_min_secs=0.25",
        "--num_runs=3",
        "--min_secs=0.5000",
        "--max_secs=99",
        "--use_xnnpack=true",
        "--input_layer=input0,input1",
        "--input_layer_shape=1,3,8:1,4",
        "--input_layer_value_files=input0:/a,input1:/b",
    ]
    watched = flags("/g", 1, 1, 0.0, 9.0, memory=True)
    assert "--report_peak_memory_footprint=true" in watched
    assert not any(flag.startswith("--input_layer") for flag in watched)


@pytest.mark.parametrize(
    ("text", "code", "why"),
    [
        (
            "INFO: STARTING!\nERROR: Node number 3 (FakeOp) failed to prepare.\nERROR: Benchmarking failed.\n",
            1,
            "benchmark_model ended with code 1: ERROR: Node number 3 (FakeOp) failed to prepare.",
        ),
        ("INFO: STARTING!\nSegmentation fault\n", 139, "ended by signal 11 (SIGSEGV), a fault in native code"),
        (
            "INFO: a\nINFO: b\n",
            134,
            "ended by signal 6 (SIGABRT), a fault in native code; it last said: INFO: a | INFO: b",
        ),
        ("INFO: a\n", 137, "was killed on the device, as Android does when memory is short"),
        ("what(): std::bad_alloc\n", 134, "the device has no memory left for it (what(): std::bad_alloc)"),
        ("", 1, "benchmark_model ended with code 1: nothing"),
        ("sh: ./a: not executable: 64-bit ELF file\n", 126, "ended with code 126: sh: ./a: not executable: 64-bit ELF"),
    ],
)
def test_a_failure_is_told_in_the_programs_words(text: str, code: int, why: str) -> None:
    assert why in why_failed(text, code)
