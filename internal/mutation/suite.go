package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// kind is a kind of suite, in the order in which they run.
type kind int

const (
	unit kind = iota
	rig
	simulation
	kinds
)

// suite is some of the tests of one package.
type suite struct {
	kind kind
	pkg  string
	args []string
}

// suitesOf lists what might catch a bug, by kind.
func suitesOf(root string, b *bug, seeds int) ([kinds][]suite, error) {
	var out [kinds][]suite
	for k, pkgs := range map[kind][]string{unit: b.units, rig: b.rigs} {
		for _, p := range pkgs {
			names, err := testsOf(filepath.Join(root, p), k == rig)
			if err != nil {
				return out, err
			}
			out[k] = append(out[k], suite{k, p, []string{"-test.short", "-test.run=^(" + strings.Join(names, "|") + ")$"}})
		}
	}
	if b.sim {
		out[simulation] = []suite{{simulation, "internal/sim", []string{"-test.run=^TestSeeds$", "-sim.seed=1", fmt.Sprintf("-sim.seeds=%d", seeds)}}}
	}
	return out, nil
}

// testsOf names the tests of a package: those outside of it (package x_test),
// or those inside.
func testsOf(dir string, outside bool) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range files {
		file, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		if strings.HasSuffix(file.Name.Name, "_test") != outside {
			continue
		}
		for _, d := range file.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") && fn.Name.Name != "TestMain" {
				names = append(names, fn.Name.Name)
			}
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no such tests in %s", dir)
	}
	return names, nil
}

// build compiles the tests of a package, with a bug if overlay says so.
func build(ctx context.Context, root, pkg, overlay, to string) error {
	args := []string{"test", "-c", "-o", to}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./"+pkg)...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the tests of %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// verdict is what a suite said.
type verdict struct {
	failed bool
	late   bool   // it was stopped at the limit, and had not failed
	test   string // that failed
	seed   string // of the simulation
	took   time.Duration
}

var (
	failLine = regexp.MustCompile(`^\s*--- FAIL: (\S+)`)
	seedLine = regexp.MustCompile(`^\s+sim_test\.go:\d+: seed (\d+):`)
	fatal    = regexp.MustCompile(`^(panic|fatal error): `)
)

// run runs the tests until one fails, or the limit is over.
func (s *suite) run(ctx context.Context, root, binary string, limit time.Duration) (verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	r, w := io.Pipe()
	cmd := exec.CommandContext(ctx, binary, append([]string{"-test.v", "-test.failfast", "-test.timeout=0"}, s.args...)...)
	cmd.Dir = filepath.Join(root, filepath.FromSlash(s.pkg))
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = w, w, 10*time.Second
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return verdict{}, err
	}
	ended := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		_ = w.Close()
		ended <- err
	}()
	var v verdict
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if m := seedLine.FindStringSubmatch(line); m != nil && v.seed == "" {
			v.seed = m[1]
		}
		m := failLine.FindStringSubmatch(line)
		switch {
		case v.failed:
		case m != nil:
			v.failed, v.test, v.took = true, m[1], time.Since(begin)
			cancel() // the rest tells nothing more
		case fatal.MatchString(line) && v.test == "":
			v.test = strings.TrimSpace(line) // the name of the test may still come
		}
		if err != nil {
			break
		}
	}
	err := <-ended
	if v.failed {
		return v, nil
	}
	v.took = time.Since(begin)
	var exit *exec.ExitError
	switch {
	case err == nil:
		v.test = ""
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		v.late, v.test = true, ""
	case errors.As(err, &exit):
		v.failed = true // without a word about a test: the process broke down
	default:
		return v, fmt.Errorf("run the tests of %s: %w", s.pkg, err)
	}
	return v, nil
}
