package vfs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestOverlay writes at random through an overlay, and on a copy without one:
// both read alike, and what is below stays as it was.
func TestOverlay(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		content := rapid.SliceOfN(rapid.Byte(), 0, 3*overlayPage).Draw(t, "content")
		base, plain := NewMem(), NewMem()
		for _, m := range []*Mem{base, plain} {
			if err := m.MkdirAll("d"); err != nil {
				t.Fatal(err)
			}
			put(t, m, "d/a", content)
			put(t, m, "d/b", []byte("b"))
		}
		o := NewOverlay(base)
		both := []FS{o, plain}
		each := func(f func(FS) error) {
			var errs [2]error
			for i, x := range both {
				errs[i] = f(x)
			}
			if (errs[0] == nil) != (errs[1] == nil) || errors.Is(errs[0], fs.ErrNotExist) != errors.Is(errs[1], fs.ErrNotExist) {
				t.Fatalf("overlay: %v; plain: %v", errs[0], errs[1])
			}
		}
		name := rapid.SampledFrom([]string{"d/a", "d/b", "d/c"})
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				n, off, p := name.Draw(t, "name"), rapid.Int64Range(0, 4*overlayPage).Draw(t, "off"), rapid.SliceOfN(rapid.Byte(), 1, 2*overlayPage).Draw(t, "bytes")
				each(func(x FS) error {
					f, err := x.OpenReadWrite(n)
					if err != nil {
						return err
					}
					_, err = f.WriteAt(p, off)
					return errors.Join(err, f.Close())
				})
			},
			"truncate": func(t *rapid.T) {
				n, size := name.Draw(t, "name"), rapid.Int64Range(0, 4*overlayPage).Draw(t, "size")
				each(func(x FS) error {
					f, err := x.OpenReadWrite(n)
					if err != nil {
						return err
					}
					return errors.Join(f.Truncate(size), f.Close())
				})
			},
			"create": func(t *rapid.T) {
				n := name.Draw(t, "name")
				each(func(x FS) error {
					f, err := x.Create(n)
					if err != nil {
						return err
					}
					return errors.Join(f.Preallocate(10), f.Sync(), f.SyncData(), f.Close())
				})
			},
			"remove": func(t *rapid.T) {
				n := name.Draw(t, "name")
				each(func(x FS) error { return x.Remove(n) })
			},
			"rename": func(t *rapid.T) {
				from, to := name.Draw(t, "from"), name.Draw(t, "to")
				if from == to {
					t.Skip("itself")
				}
				each(func(x FS) error { return x.Rename(from, to) })
			},
			"": func(t *rapid.T) {
				var lists [2][]string
				for i, x := range both {
					lists[i], _ = x.List("d")
				}
				if !slices.Equal(lists[0], lists[1]) {
					t.Fatalf("overlay lists %v, plain %v", lists[0], lists[1])
				}
				for _, n := range lists[1] {
					if a, b := get(t, o, n), get(t, plain, n); !bytes.Equal(a, b) {
						t.Fatalf("%s: %d bytes through the overlay, %d without", n, len(a), len(b))
					}
				}
				if !bytes.Equal(get(t, base, "a"), content) || !bytes.Equal(get(t, base, "b"), []byte("b")) {
					t.Fatal("a write went through")
				}
			},
		})
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func put(t *rapid.T, fsys FS, name string, p []byte) {
	f, err := fsys.Create(name)
	if err == nil {
		_, err = f.WriteAt(p, 0)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func get(t *rapid.T, fsys FS, name string) []byte {
	f, err := fsys.Open("d/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, size)
	if n, err := f.ReadAt(p, 0); n < len(p) || (err != nil && err != io.EOF) {
		t.Fatalf("%s: %d of %d bytes, %v", name, n, size, err)
	}
	return p
}
