package houserules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
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
