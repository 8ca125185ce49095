# make dev    a virtual environment with everything, for working on edgectl
# make check  lint, format, types, import rules
# make test   the whole suite, in that environment (one after the other: ARGS="-n 0")
# make test-mlflow, make test-label-studio  against the real ones, each in an environment of its own; some minutes
# make test-server-package  the server's Debian package on a booted machine, with an agent; some minutes
# make test-native-package  the agent's package on Debian 13's own libraries, on a booted machine; a few minutes
# make test-arm64  the agent's packages on ARM by QEMU's user mode: enrolled, a model served, its numbers
#                   beside those of this machine (MODELS=FOLDER for more models); some minutes
# make test-armhf  the same on 32-bit ARM, with Debian 13's own runtime
# make test-vm  a whole arm64 machine under QEMU, whose power is cut in the middle of updates; as root
# make test-container  the server's image built and run, and the Compose file as a whole, by Docker's engine in a folder;
#                      as root, a quarter of an hour
# make test-release    a release of this commit, end to end, everything built twice; half an hour and more
# make demo   a server, three devices, a real model: from push to prediction (ARGS="--exit --json")
# make demo-loop  the same, and then: a shift, drift, labels, retraining, rollout, accuracy recovered
# make test-firmware  the C core for microcontrollers: sanitizers, power cuts, vectors (part of make test)
# make sweep-kills    the server dies more often than in make test: 20 times a rollout, 100 times beside 100 devices; half an hour
# make sweep-firmware the power is cut at every flash operation of an update over the network; some minutes
# make test-linux-agent   the agent in C for Linux (part of make test)
# make sweep-linux-agent  it is killed in the middle of updates again and again (ARGS as of pytest); some minutes
# make test-linux-agent-arm64  it is cross-compiled, and updated in an emulator; as root, a minute
# make test-micropython   the node in MicroPython (part of make test)
# make sweep-pico     the same of an emulated Raspberry Pi Pico on a serial line; some minutes
# make figures-pico   what the Pico's README measures: a real model, its time on the line and on the chip; some minutes
# make fuzz-firmware  its parsers under libFuzzer (SECONDS=60 each)
# make bench  the figures of the README, measured here
# make bench-device    the figures of the device (ARGS="--only serving"; an hour with all of them)
# make bench-packages  the agent's Debian packages on booted machines: size, memory, first inference, what an
#                      upgrade interrupts (ARGS="--only deb12 --upgrades 5"); as root, a quarter of an hour
# make bench-pipeline  the pipeline's choice beside fp32 and onnxruntime's defaults (ARGS="FOLDER CACHE")
# make bench-hostile   1,000 damaged model files
# make bench-distribution  the embedded broker beside Mosquitto, transfers, updates in small steps
# make bench-fleet  what simulated devices cost server and broker, beside gooseBit (ARGS="--sizes 1000,3000,10000"), and
#                   what the web UI costs with as many (UI_ARGS="--devices 10000 --tabs 20")
# make bench-intake telemetry into SQLite and PostgreSQL, through kills of server and broker (ARGS="--kills 3")
# make bench-drift  drift from counts beside raw rows, rules of thumb and sketches (ARGS="FOLDER RUNS")
# make conformance CHECKOUT=/path/to/tuf-conformance  the TUF suite against the device's verifier
# make interoperability CHECKOUT=/path/to/paho.mqtt.testing  the MQTT suites against the broker

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
UI_ARGS ?=

.PHONY: dev check format test test-mlflow test-firmware test-server-package sweep-kills sweep-firmware \
        sweep-pico figures-pico test-linux-agent sweep-linux-agent test-linux-agent-arm64 test-micropython \
        fuzz-firmware demo demo-loop bench bench-device test-native-package test-arm64 test-armhf test-vm \
        test-label-studio test-container test-release \
        bench-packages bench-pipeline bench-hostile bench-distribution bench-drift bench-intake bench-fleet conformance interoperability docs clean

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

# Tests wait, too: two workers more than there are processors.
WORKERS := $(shell expr $$(nproc) + 2)

# Bytecode as pip leaves it: hundreds of processes would compile us anew where it is not written.
test: dev
	$(BIN)/python packaging/install_test_packages.py
	$(BIN)/python -m compileall -q agent server/edgectl server/edgectl_broker server/edgectl_datasets server/edgectl_server server/edgectl_simulator
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=15 $(ARGS)

test-firmware: dev
	$(BIN)/python -m pytest tests/firmware --durations=5 $(ARGS)

# Who asks for one of these wants it run: what cannot be installed, or is skipped, is a failure.
test-server-package test-native-package test-arm64 test-armhf test-vm test-container test-release test-linux-agent-arm64: export CI := true

# Not part of make test: two packages are built and three installed.
test-server-package: dev
	$(BIN)/python packaging/install_test_packages.py
	$(BIN)/python -m pytest tests/installation/server_package.py --durations=5 $(ARGS)

sweep-kills: dev
	EDGECTL_KILLS=20 $(BIN)/python -m pytest tests/e2e/test_restarts.py --timeout 1800
	$(BIN)/python -m benchmarks.fleet.kills

# Not part of make test: a machine of Debian 13 is made.
test-native-package: dev
	$(BIN)/python packaging/install_test_packages.py
	$(BIN)/python -m pytest tests/installation/native_package.py --durations=5 $(ARGS)

# Not part of make test: they download a root of Debian for another processor, and run it emulated.
test-arm64: dev
	$(call test_foreign,arm64)

test-armhf: dev
	$(call test_foreign,armhf)

define test_foreign
	$(BIN)/python packaging/install_test_packages.py emulation
	$(BIN)/python -m pytest tests/installation/foreign_device.py -k $(1) --durations=5 $(ARGS)
endef

# Not part of make test: a machine of another processor boots once for each power cut.
test-vm: dev
	$(BIN)/python packaging/install_test_packages.py machine
	$(BIN)/python -m pytest tests/installation/power_cuts.py --durations=5 $(ARGS)

# Not part of make test: three images and an engine are made.
test-container: dev
	$(BIN)/python packaging/install_test_packages.py test container
	$(BIN)/python -m pytest tests/installation/container.py --durations=5 $(ARGS)

test-release: dev
	$(BIN)/python -m pytest tests/installation/release.py --durations=5 $(ARGS)

sweep-firmware: dev
	$(BIN)/python tests/firmware/sweep_network.py

test-linux-agent: dev
	$(BIN)/python -m pytest tests/firmware/test_linux_agent.py --durations=5 $(ARGS)

sweep-linux-agent: dev
	EDGECTL_TEST_KILLS=100 $(BIN)/python -m pytest tests/firmware/test_linux_agent.py -k killed_at_any_moment $(ARGS)

# Not part of make test: the compiler and the emulator are large.
test-linux-agent-arm64: dev
	$(BIN)/python packaging/install_test_packages.py test cross
	-PATH=$$PATH:/usr/sbin update-binfmts --enable qemu-aarch64
	$(BIN)/python -m pytest -s tests/firmware/arm64_linux_agent.py $(ARGS)

test-micropython: dev
	$(BIN)/python -m pytest tests/firmware/test_micropython_node.py --durations=5 $(ARGS)

sweep-pico: dev
	$(BIN)/python tests/firmware/sweep_pico.py

figures-pico: dev
	$(BIN)/python tests/firmware/figures_pico.py

fuzz-firmware: dev
	$(BIN)/python tests/firmware/fuzz.py $(or $(SECONDS),60)

# Nothing but what the demo prints goes to stdout, so that --json is one object there.
demo: $(VENV)/.demo
	@$(BIN)/edgectl demo $(ARGS)

demo-loop: $(VENV)/.demo
	@$(BIN)/edgectl demo loop --exit --data edgectl-demo-loop $(ARGS)

$(VENV)/.demo: pyproject.toml hatch_build.py $(VENV)/bin/python $(shell find server/ui -type f -not -path '*/node_modules/*' 2>/dev/null)
	@echo 'edgectl: installing into $(VENV) (a minute or two, the first time only)' >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[server,agent]' >&2
	@touch $@

# Label Studio itself, in an environment of its own: our tasks there, its labels back.
test-label-studio: dev
	@test -x $(VENV)-label-studio/bin/label-studio || ($(PYTHON) -m venv $(VENV)-label-studio && $(VENV)-label-studio/bin/pip install --quiet label-studio==1.23.2)
	EDGECTL_TEST_LABEL_STUDIO=$(CURDIR)/$(VENV)-label-studio/bin/label-studio $(BIN)/python -m pytest tests/cli/label_studio.py $(ARGS)

# MLflow itself, in an environment of its own (1 GB): retrainings are told to it.
test-mlflow: dev
	@test -x $(VENV)-mlflow/bin/mlflow || ($(PYTHON) -m venv $(VENV)-mlflow && $(VENV)-mlflow/bin/pip install --quiet mlflow)
	EDGECTL_TEST_MLFLOW=$(CURDIR)/$(VENV)-mlflow/bin/mlflow $(BIN)/python -m pytest tests/server/learning/test_tracking.py $(ARGS)

bench: dev
	$(BIN)/python -m benchmarks $(ARGS)

bench-device: dev
	$(BIN)/python -m benchmarks.device $(ARGS)

bench-packages: dev
	$(BIN)/python packaging/install_test_packages.py
	$(BIN)/python -m benchmarks.packages $(ARGS)

bench-pipeline: dev
	$(BIN)/python -m benchmarks.pipeline $(ARGS)

bench-hostile: dev
	$(BIN)/python -m benchmarks.hostile_models $(ARGS)

bench-distribution: dev
	$(BIN)/python -m benchmarks.distribution $(ARGS)

bench-drift: dev
	$(BIN)/python -m benchmarks.drift $(ARGS)

bench-intake: dev
	$(BIN)/python -m benchmarks.watching $(ARGS)

bench-fleet: dev
	$(BIN)/python -m benchmarks.fleet $(ARGS)
	$(BIN)/python -m benchmarks.fleet.ui_pages $(UI_ARGS)

# Fetches nothing but what pip needs to install the suite's requirements; ARGS go to its pytest.
conformance: dev
	$(BIN)/python tests/conformance/run.py "$(CHECKOUT)" $(ARGS)

# Fetches nothing; ARGS name single cases.
interoperability: dev
	$(BIN)/python tests/broker/interoperability.py "$(CHECKOUT)" $(ARGS)

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis server/edgectl_server/web server/ui/node_modules tests/server/openid/node_modules firmware-examples/pico-uart/emulator/node_modules
