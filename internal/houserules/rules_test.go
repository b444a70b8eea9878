package houserules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/copycat-replication/copycat"

// allowed says what each package of the library may import of the others.
// Imports run downwards; wal, snapshot, gossip and transport do not know one
// another.
var allowed = map[string][]string{
	".":                         {"catalog", "gossip", "id", "internal/nodestatus", "internal/vfs", "placement", "raftgroup", "snapshot", "transport", "wal"},
	"catalog":                   {"id", "raftgroup", "pb/catalogpb", "pb/grouppb"},
	"gossip":                    {"id", "pb/gossippb"},
	"id":                        {},
	"internal/rig":              {"id", "internal/vfs", "raftgroup", "snapshot", "wal"},
	"internal/history":          {},
	"internal/history/register": {"internal/history"},
	"internal/mutation":         {"internal/overlay"},
	"internal/netproxy":         {},
	"internal/overlay":          {},
	"internal/nodestatus":       {},
	"internal/operator":         {"catalog", "id", "internal/nodestatus", "internal/vfs", "raftgroup", "snapshot", "wal"},
	"internal/procrig":          {"id", "internal/history", "internal/netproxy"},
	"internal/sim":              {"catalog", "id", "internal/history", "internal/history/register", "internal/vfs", "pb/grouppb", "placement", "raftgroup", "snapshot", "wal"},
	"internal/vfs":              {},
	"placement":                 {"id"},
	"raftgroup":                 {"id", "pb/grouppb", "placement", "snapshot", "wal"},
	"snapshot":                  {"id", "internal/vfs"},
	"transport":                 {"id"},
	"wal":                       {"internal/vfs"},
}

// memberlistLog turns what memberlist writes to a log.Logger into slog records.
const memberlistLog = "gossip/logging.go"

type source struct {
	pkg  string // folder, relative to the module's root
	name string
	file *ast.File
	fset *token.FileSet
}

// library parses every non-test file of the library: not the examples, the
// benchmarks and what is generated.
func library(t *testing.T) []source {
	t.Helper()
	root := filepath.Join("..", "..")
	var out []source
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if rel == "examples" || rel == "bench" || rel == "cmd" || rel == "pb" || d.Name() == "testdata" || (rel != "." && strings.HasPrefix(d.Name(), ".")) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") || strings.HasSuffix(rel, "_test.go") {
			return nil
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		out = append(out, source{pkg: filepath.ToSlash(filepath.Dir(rel)), name: rel, file: file, fset: fset})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 50 {
		t.Fatalf("found only %d files: not the whole library", len(out))
	}
	return out
}

func TestImportsRunDownwards(t *testing.T) {
	t.Parallel()
	for _, s := range library(t) {
		may, known := allowed[s.pkg]
		if !known && s.pkg != "internal/houserules" {
			t.Errorf("%s: package %s has no rule: add it to the list", s.name, s.pkg)
			continue
		}
		for _, imp := range s.file.Imports {
			path := strings.Trim(imp.Path.Value, `"`)
			rest, ours := strings.CutPrefix(path, module+"/")
			if ours && !slices.Contains(may, rest) {
				t.Errorf("%s imports %s, which package %s may not", s.name, rest, s.pkg)
			}
			if path == "log" && s.name != memberlistLog {
				t.Errorf("%s imports log: logging goes through the user's slog.Logger", s.name)
			}
		}
	}
}

// raftPanics is the one place that panics: raft's logger must not return from
// Panicf, and the group's step recovers it.
const raftPanics = "raftgroup/storage.go"

func TestNoPanicExitOrPrint(t *testing.T) {
	t.Parallel()
	for _, s := range library(t) {
		if s.pkg == "internal/rig" || s.pkg == "internal/mutation" {
			continue // for tests; a command
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			switch f := call.Fun.(type) {
			case *ast.Ident:
				if (f.Name == "panic" && s.name != raftPanics) || f.Name == "println" || f.Name == "print" {
					t.Errorf("%s: %s", s.fset.Position(call.Pos()), f.Name)
				}
			case *ast.SelectorExpr:
				pkg, ok := f.X.(*ast.Ident)
				if !ok {
					return true
				}
				name := pkg.Name + "." + f.Sel.Name
				if name == "os.Exit" || name == "slog.Default" || name == "slog.SetDefault" || strings.HasPrefix(name, "fmt.Print") {
					t.Errorf("%s: %s", s.fset.Position(call.Pos()), name)
				}
			}
			return true
		})
	}
}

func TestExportedNamesAreDocumented(t *testing.T) {
	t.Parallel()
	for _, s := range library(t) {
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && exportedReceiver(d) && d.Doc == nil {
					t.Errorf("%s: %s has no doc comment", s.fset.Position(d.Pos()), d.Name.Name)
				}
			case *ast.GenDecl:
				checkGenDecl(t, s, d)
			}
		}
	}
}

func checkGenDecl(t *testing.T, s source, d *ast.GenDecl) {
	t.Helper()
	for _, spec := range d.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			if spec.Name.IsExported() && d.Doc == nil && spec.Doc == nil {
				t.Errorf("%s: %s has no doc comment", s.fset.Position(spec.Pos()), spec.Name.Name)
			}
		case *ast.ValueSpec:
			for _, n := range spec.Names {
				if n.IsExported() && d.Doc == nil && spec.Doc == nil && spec.Comment == nil {
					t.Errorf("%s: %s has no doc comment", s.fset.Position(spec.Pos()), n.Name)
				}
			}
		}
	}
}

// exportedReceiver: methods of unexported types implement interfaces that say
// what they do.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return true
	}
	typ := d.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if index, ok := typ.(*ast.IndexExpr); ok {
		typ = index.X
	}
	name, ok := typ.(*ast.Ident)
	return ok && name.IsExported()
}
