package houserules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var namedTest = regexp.MustCompile("`([a-z/]+)\\.((?:Test|Fuzz)[A-Za-z0-9]+)`")

// TestGuaranteesNameRealTests: a promise whose test was renamed or removed is
// one without a test.
func TestGuaranteesNameRealTests(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	text, err := os.ReadFile(filepath.Join(root, "docs", "guarantees.md"))
	if err != nil {
		t.Fatal(err)
	}
	names := namedTest.FindAllStringSubmatch(string(text), -1)
	if len(names) < 50 {
		t.Fatalf("found only %d names of tests", len(names))
	}
	known := make(map[string]map[string]bool)
	for _, n := range names {
		pkg, name := n[1], n[2]
		if known[pkg] == nil {
			known[pkg] = testsIn(t, root, pkg)
		}
		if !known[pkg][name] {
			t.Errorf("%s has no test %s", pkg, name)
		}
	}
}

var sentinel = regexp.MustCompile(`(?m)^\t(Err\w+) +=`)

// TestErrorsAreInTheManual: whoever meets an error of the public API finds it in
// the README, and what to do about it in docs/operations.md.
func TestErrorsAreInTheManual(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	source, err := os.ReadFile(filepath.Join(root, "errors.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := sentinel.FindAllStringSubmatch(string(source), -1)
	if len(names) < 30 {
		t.Fatalf("found only %d errors", len(names))
	}
	for _, page := range []string{"README.md", "docs/operations.md"} {
		text, err := os.ReadFile(filepath.Join(root, page))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			if !strings.Contains(string(text), "`"+n[1]+"`") {
				t.Errorf("%s does not name %s", page, n[1])
			}
		}
	}
}

// namedStory is a story's name in brackets, which is not the text of a link.
var namedStory = regexp.MustCompile(`\[([a-z0-9_]+)\](?:[^(]|$)`)

// TestGuaranteesNameRealStories: each transcript that the page names is there,
// and each one that is there is named, since they are meant to be read.
func TestGuaranteesNameRealStories(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	text, err := os.ReadFile(filepath.Join(root, "docs", "guarantees.md"))
	if err != nil {
		t.Fatal(err)
	}
	told := make(map[string]bool)
	for _, pkg := range []string{"raftgroup", "catalog"} {
		files, err := filepath.Glob(filepath.Join(root, pkg, "testdata", "stories", "*.txt"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d stories, %v", pkg, len(files), err)
		}
		for _, f := range files {
			told[strings.TrimSuffix(filepath.Base(f), ".txt")] = true
		}
	}
	named := make(map[string]bool)
	for _, n := range namedStory.FindAllStringSubmatch(string(text), -1) {
		named[n[1]] = true
		if !told[n[1]] {
			t.Errorf("nobody tells the story %s", n[1])
		}
	}
	for name := range told {
		if !named[name] {
			t.Errorf("the page does not name the story %s", name)
		}
	}
}

// testsIn names the tests and fuzz targets of a folder; copycat is the root's.
func testsIn(t *testing.T, root, pkg string) map[string]bool {
	t.Helper()
	if pkg == "copycat" {
		pkg = "."
	}
	files, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(pkg), "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, f := range files {
		file, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
				names[fn.Name.Name] = true
			}
		}
	}
	return names
}
