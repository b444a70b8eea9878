#!/usr/bin/env bash
# Builds, vets and runs each peer for some seconds, and draws a plot: what a
# change to bench/internal may break without the main module's tests noticing.
# Fetches the peers' modules where they are not yet there. With "build" as
# argument it only builds and vets.
set -euo pipefail
cd "$(dirname "$0")"
for dir in hashicorp etcd nats dragonboat ../plot; do
	printf '\n== %s\n' "$dir"
	(
		cd "$dir"
		go vet ./...
		[ "${1:-}" = build ] || go test -count 1 ./...
	)
done
