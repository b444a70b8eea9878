package report

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestReplace(t *testing.T) {
	t.Parallel()
	doc := []byte("# Title\n\n<!-- results:lan -->\nold\n<!-- end -->\nbetween\n<!-- results:idle -->\nkept\n<!-- end -->\nafter\n")
	write := func(w io.Writer) error {
		_, err := io.WriteString(w, "New words.\n")
		return err
	}
	got, err := replace(doc, "lan", write)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# Title", "New words.", "between", "kept", "after"} {
		if !bytes.Contains(got, []byte(want)) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if bytes.Contains(got, []byte("old")) {
		t.Errorf("the old is still in\n%s", got)
	}
	again, err := replace(got, "lan", write)
	if err != nil || !bytes.Equal(got, again) {
		t.Errorf("a second time it is different: %v\n%s", err, again)
	}
	if _, err := replace(doc, "moon", write); !errors.Is(err, ErrMark) {
		t.Errorf("a part without a place: %v", err)
	}
	if _, err := replace([]byte("<!-- results:lan -->\nno end"), "lan", write); !errors.Is(err, ErrMark) {
		t.Errorf("a place without an end: %v", err)
	}
	if _, err := replace(doc, "lan", func(io.Writer) error { return io.ErrShortWrite }); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("what cannot be written: %v", err)
	}
}
