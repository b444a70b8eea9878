package compare

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const module = "github.com/copycat-replication/copycat"

// errSource says that the source tree was not found.
var errSource = errors.New("run it inside the source tree of " + module)

// source finds the root of the source tree that the current directory is in.
func source(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	root := strings.TrimSpace(string(out))
	if err != nil || root == "" {
		return "", fmt.Errorf("%w: %w", errSource, err)
	}
	if _, err := os.Stat(filepath.Join(root, "bench", "peers")); err != nil {
		return "", fmt.Errorf("%w: %w", errSource, err)
	}
	return root, nil
}

// sourceDir is where a system's program is.
func sourceDir(root, system string) string {
	if system == copycat {
		return filepath.Join(root, "bench")
	}
	return filepath.Join(root, "bench", "peers", system)
}

// build makes a system's program, and returns its path.
func build(ctx context.Context, root, into, system string) (string, error) {
	program := filepath.Join(into, system)
	cmd := exec.CommandContext(ctx, "go", "build", "-o", program, ".")
	cmd.Dir = sourceDir(root, system)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", system, err, why(said.String(), root))
	}
	return program, nil
}
