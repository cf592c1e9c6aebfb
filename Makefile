# make test     installs what the tests need and runs every test
# make demo     serves this folder over QUIC on 127.0.0.1:4433
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

GO      ?= go
PKGS    ?= ./...
# Flags of every test run; the second is what go test itself would cut short.
TESTFLAGS ?= -count=1 -timeout=30m
SUDO    := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

export CGO_ENABLED ?= 0

.PHONY: build deps test demo interop interop-stacks torture bench soak lint vet fmt fmt-check cross generate clean

build:
	$(GO) build -trimpath -o bin/quic-fsgw ./cmd/quic-fsgw

# Debian packages, and the folder with a newer Samba; both are left alone when they are there.
deps:
	$(SUDO) testenv/install.sh
	$(SUDO) testenv/setup-chroot.sh

# Packages under the race detector, one after the other: several work with time
# limits and real servers. Then what the race detector would spoil: allocations,
# memory, and where the processor time goes. Then the program itself, end to end on real
# peers, foreign QUIC stacks, and what measures them (modules of their own).
UNIT = $$($(GO) list ./... | grep -v /cmd/)
test: deps build lint cross
	{ CGO_ENABLED=1 $(GO) test -race -p 1 -json $(TESTFLAGS) $(UNIT) || echo; \
	  $(GO) test -json $(TESTFLAGS) -run '^(TestSteadyState|TestCopyGuard|TestIdleConnectionMemory|TestHostile66.*)$$' ./quic || echo; \
	  $(GO) test -p 1 -json $(TESTFLAGS) ./cmd/... || echo; \
	  $(GO) test -C interop -json $(TESTFLAGS) ./... || echo; \
	  $(GO) test -C bench -json $(TESTFLAGS) ./... || echo; \
	} | $(GO) run ./internal/testsummary

demo: build
	bin/quic-fsgw serve --dev .

# Peers that are not ours: the Linux kernel's SMB and NFS clients in a virtual
# machine, and other QUIC stacks, which have a module of their own.
interop: deps build interop-stacks
	$(SUDO) testenv/install.sh debian.packages vm.packages
	$(SUDO) testenv/vm/build.sh
	$(GO) test -json $(TESTFLAGS) -tags interop -run Kernel ./smb ./cmd/quic-fsgw | $(GO) run ./internal/testsummary

# All of smbtorture's suites, straight to smbd three times and through the gateway.
torture: deps
	$(GO) test -json -count=1 -timeout=0 -parallel 4 -tags torture -run TestSMBTortureEverySuite ./cmd/quic-fsgw | $(GO) run ./internal/testsummary

# Every case with every stack, also those that take minutes; writes docs/interop.md.
interop-stacks: deps
	mkdir -p bin && rm -f bin/interop.json
	INTEROP_LONG=1 INTEROP_RESULTS=$(CURDIR)/bin/interop.json \
	  $(GO) test -C interop -json $(TESTFLAGS) ./... | $(GO) run ./internal/testsummary

# Against quic-go, x/net/quic, TLS over TCP and a floor program, which a module
# of their own pins; writes docs/performance.md, docs/datapath.svg
# and the table in README.md.
# The relay needs Samba. BENCH_QUICK=1 takes 5 minutes instead of 25;
# bin/bench run -only relay,latency measures some sections and writes nothing.
bench: deps build
	cd bench && $(GO) build -trimpath -o ../bin/bench .
	bin/bench run -fsgw bin/quic-fsgw -docs docs -readme README.md

SOAK_TIME ?= 1h
soak: deps build
	SOAK_TIME=$(SOAK_TIME) $(GO) test -count=1 -timeout=0 -run Soak -v $(PKGS)

# The linter is pinned in a module of its own: internal/tools/go.mod.
lint: vet fmt-check
	$(GO) tool -modfile=internal/tools/go.mod staticcheck $(PKGS)

vet:
	$(GO) vet $(PKGS)
	$(GO) vet -C interop ./...
	$(GO) vet -C bench ./...

fmt:
	gofmt -w .

fmt-check:
	@bad=$$(gofmt -l .); \
	if [ -n "$$bad" ]; then echo "not formatted (make fmt):"; echo "$$bad"; exit 1; fi

cross:
	GOOS=darwin GOARCH=arm64 $(GO) build $(PKGS)
	GOOS=windows GOARCH=amd64 $(GO) build $(PKGS)

# Documents that are written from the code.
generate:
	UPDATE=1 $(GO) test -count=1 -run 'Document|GeneratedDocs' ./gateway/config ./gateway/reason ./gateway/supervise ./internal/ccsim ./internal/conform ./cmd/quic-fsgw

clean:
	rm -rf bin
