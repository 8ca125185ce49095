# make dev    a virtual environment with everything, for working on edgectl
# make check  lint, format, types, import rules
# make test   the whole suite, in that environment (one after the other: ARGS="-n 0")
# make demo   a server, three devices, a real model: from push to prediction (ARGS="--exit --json")
# make bench  the figures of the README, measured here
# make bench-device    the figures of the device (ARGS="--only serving"; an hour with all of them)
# make bench-pipeline  the pipeline's choice beside fp32 and onnxruntime's defaults (ARGS="FOLDER CACHE")
# make bench-hostile   1,000 damaged model files
# make bench-distribution  the embedded broker beside Mosquitto, transfers, updates in small steps
# make bench-fleet  what simulated devices cost server and broker, beside gooseBit (ARGS="--sizes 1000,3000,10000")
# make conformance CHECKOUT=/path/to/tuf-conformance  the TUF suite against the device's verifier
# make interoperability CHECKOUT=/path/to/paho.mqtt.testing  the MQTT suites against the broker

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: dev check format test demo bench bench-device bench-pipeline bench-hostile bench-distribution bench-fleet conformance interoperability docs clean

dev: $(VENV)/.dev

$(VENV)/bin/python:
	@$(PYTHON) -m venv $(VENV)

# Everything, in one editable installation. Rebuilds the web UI when its sources have changed.
$(VENV)/.dev: pyproject.toml hatch_build.py $(VENV)/bin/python $(shell find server/ui -type f -not -path '*/node_modules/*' 2>/dev/null)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[server,agent,grpc,postgresql]' --group dev
	@touch $@

check: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python server/ui/run.py typecheck

format: dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Bytecode as pip leaves it: hundreds of processes would compile us anew where it is not written.
test: dev
	$(BIN)/python packaging/install_test_packages.py
	$(BIN)/python -m compileall -q agent server/edgectl server/edgectl_broker server/edgectl_server server/edgectl_simulator
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations=15 $(ARGS)

# Nothing but what the demo prints goes to stdout, so that --json is one object there.
demo: $(VENV)/.demo
	@$(BIN)/edgectl demo $(ARGS)

$(VENV)/.demo: pyproject.toml hatch_build.py $(VENV)/bin/python $(shell find server/ui -type f -not -path '*/node_modules/*' 2>/dev/null)
	@echo 'edgectl: installing into $(VENV) (a minute or two, the first time only)' >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[server,agent]' >&2
	@touch $@

bench: dev
	$(BIN)/python -m benchmarks $(ARGS)

bench-device: dev
	$(BIN)/python -m benchmarks.device $(ARGS)

bench-pipeline: dev
	$(BIN)/python -m benchmarks.pipeline $(ARGS)

bench-hostile: dev
	$(BIN)/python -m benchmarks.hostile_models $(ARGS)

bench-distribution: dev
	$(BIN)/python -m benchmarks.distribution $(ARGS)

bench-fleet: dev
	$(BIN)/python -m benchmarks.fleet $(ARGS)

# Fetches nothing but what pip needs to install the suite's requirements; ARGS go to its pytest.
conformance: dev
	$(BIN)/python tests/conformance/run.py "$(CHECKOUT)" $(ARGS)

# Fetches nothing; ARGS name single cases.
interoperability: dev
	$(BIN)/python tests/broker/interoperability.py "$(CHECKOUT)" $(ARGS)

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis server/edgectl_server/web server/ui/node_modules tests/server/openid/node_modules
