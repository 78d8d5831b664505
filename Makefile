# Two commands do everything: `make demo` and `make test`. Both work in .venv and install what they need.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

DEMO := search fashion-mini --target onnxruntime-cpu --target openvino-cpu --space standard --trials 24 --seed 0 --study demo

.PHONY: demo test bench bench-techniques bench-targets bench-devices bench-dashboard clean

demo: .venv/demo
	@if [ -f results/demo/study.json ]; then $(BIN)/autoshrink resume demo; else $(BIN)/autoshrink $(DEMO); fi

test: .venv/test
	@sh tests/system-packages.sh
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	AUTOSHRINK_TENSORRT_BINDINGS=$(CURDIR)/.venv/tensorrt/10:$(CURDIR)/.venv/tensorrt/11 OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= \
		$(BIN)/python -m pytest --numprocesses 2 --dist loadscope

bench: .venv/test
	$(BIN)/python -m autoshrink.bench.noise --out results/measuring-noise.json
	$(BIN)/python -m autoshrink.bench.overhead --out results/overhead.json
	$(BIN)/python -m autoshrink.bench.technique_costs --out results/technique_costs.json

# Trains and measures every technique on two models: some two hours on two cores.
bench-techniques: .venv/test
	$(BIN)/python -m autoshrink.bench.techniques --out results/techniques.json

# Compiles and measures two models for every target: some twenty minutes, and the training of the 4-bit CNN the first time.
bench-targets: .venv/test
	$(BIN)/autoshrink doctor --fix browser-wasm --yes
	$(BIN)/python -m autoshrink.bench.targets --out results/targets.json

# The same artifact in four places, an agent's memory, what explain --apply brings: twenty minutes, alone on the machine.
bench-devices: .venv/test
	$(BIN)/python -m autoshrink.backends.browser_runtime
	$(BIN)/python -m autoshrink.bench.explain_cases --out .venv/explain.json
	$(BIN)/python -m autoshrink.bench.devices --explain .venv/explain.json --out results/devices.json

.venv/demo: pyproject.toml constraints.txt
	@echo "installing into .venv (some minutes, about 2 GB)"
	$(PYTHON) -m venv .venv
	$(PIP) --editable '.[search,onnxruntime,openvino,dashboard]'
	@touch $@

# The bindings of TensorRT without its libraries, which are for machines with a GPU: its API is checked against both.
.venv/test: .venv/demo
	$(PIP) --editable '.[all,dev]'
	$(PIP) --no-deps --target .venv/tensorrt/10 tensorrt-cu12-bindings==10.16.1.11
	$(PIP) --no-deps --target .venv/tensorrt/11 tensorrt-cu12-bindings==11.4.0.106
	@touch $@

# The dashboard over 10,000 generated trials, in Chromium: some minutes, alone on the machine.
bench-dashboard: .venv/test
	$(BIN)/python -m autoshrink.bench.dashboard --out results/dashboard.json

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
