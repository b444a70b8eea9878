#!/usr/bin/env bash
# Regenerates the Go code of every .proto in this folder. The result is checked
# in; run this after changing a .proto. Needs protoc (Debian: protobuf-compiler);
# the Go plugin comes from the module's own gogo/protobuf version.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
GOBIN="$bin" go install "github.com/gogo/protobuf/protoc-gen-gogofaster@v1.3.2"
# Paths below the module's root are the registered file names: qualified enough
# never to clash with another package's raft.proto.
for proto in pb/*/*.proto examples/distmap/*/*.proto; do
  [ -e "$proto" ] || continue
  PATH="$bin:$PATH" protoc -I. --gogofaster_out=paths=source_relative:. "$proto"
done
