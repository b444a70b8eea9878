package main

import (
	"fmt"

	"github.com/copycat-replication/copycat/internal/overlay"
)

func (b *bug) overlayEdits() []overlay.Edit {
	var out []overlay.Edit
	for _, e := range b.edits {
		out = append(out, overlay.Edit{File: e.file, Old: e.old, New: e.new})
	}
	return out
}

// apply returns the files that a bug changes, as changed, by their path from
// the root.
func (b *bug) apply(root string) (map[string]string, error) {
	changed, err := overlay.Apply(root, b.overlayEdits())
	if err != nil {
		return nil, fmt.Errorf("%s, in bugs.go: %w", b.name, err)
	}
	return changed, nil
}

// plant writes the changed files to dir, and returns the overlay that gives
// them to the compiler.
func (b *bug) plant(root, dir string) (string, error) {
	name, err := overlay.Write(root, dir, b.overlayEdits())
	if err != nil {
		return "", fmt.Errorf("%s: %w", b.name, err)
	}
	return name, nil
}
