package procrig

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestComplaints: what must not stand in a log is found, what the test has
// broken on purpose is not held against it, and a panic always is.
func TestComplaints(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "node1.1.log")
	text := `time=x level=INFO msg="replica started"
time=x level=ERROR msg="disk full: this replica stands still"
time=x level=ERROR msg="replica stopped" error="runtime error: index out of range"
time=x level=ERROR msg="replica stopped"
WARNING: DATA RACE
time=x level=WARN msg="slow"
panic: no
`
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		expected []string
		want     []int
	}{
		{nil, []int{1, 2, 3, 4, 6}},
		{[]string{"disk full"}, []int{2, 3, 4, 6}},
		{[]string{"replica stopped", "disk full", "panic"}, []int{2, 4, 6}},
	} {
		found, err := complaints(name, c.expected)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, i := range c.want {
			want = append(want, strings.Split(text, "\n")[i])
		}
		if !slices.Equal(found, want) {
			t.Errorf("with %q: %q, want %q", c.expected, found, want)
		}
	}
}
