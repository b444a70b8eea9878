package history

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
)

// TestFileHoldsTheSameHistory records a seed twice, to memory and to a file,
// and reads the file back; and writes the history once more.
func TestFileHoldsTheSameHistory(t *testing.T) {
	t.Parallel()
	for seed := range uint64(5) {
		want := correct(t, seed, nil)
		var streamed, written bytes.Buffer
		if h := correct(t, seed, &streamed); len(h.Logs)+len(h.Nodes) != 0 {
			t.Fatal("a streaming recorder keeps events")
		}
		if err := want.Write(&written); err != nil {
			t.Fatal(err)
		}
		for _, file := range []*bytes.Buffer{&streamed, &written} {
			got, err := Read(file)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d: what was read differs from what was recorded", seed)
			}
		}
	}
}

// TestTornTail cuts a file at every byte: what remains is a prefix, without an error.
func TestTornTail(t *testing.T) {
	t.Parallel()
	var file bytes.Buffer
	correct(t, 1, &file)
	b := file.Bytes()
	b = b[:min(len(b), 6000)]
	for n := range len(b) {
		h, err := Read(bytes.NewReader(b[:n]))
		if err != nil {
			t.Fatalf("cut at %d: %v", n, err)
		}
		events := len(h.Nodes)
		for _, l := range h.Logs {
			events += len(l.Events)
		}
		if want := max(bytes.Count(b[:n], []byte("\n"))-1, 0); events != want {
			t.Fatalf("cut at %d: %d events of %d lines", n, events, want)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	const head = `{"history":1}` + "\n"
	for text, want := range map[string]error{
		`{"history":2}` + "\n":                                             ErrNewerFormat,
		`{"k":"calm"}` + "\n":                                              ErrMalformed,
		head + "nonsense\n":                                                ErrMalformed,
		head + `{"t":1,"k":"nothing known"}` + "\n":                        ErrMalformed,
		head + `{"t":1}` + "\n":                                            ErrMalformed,
		head + `{"t":1,"k":"calm","s":"s1/n1.1#1"}` + "\n":                 ErrMalformed,
		head + `{"t":1,"k":"opened"}` + "\n":                               ErrMalformed,
		head + `{"t":1,"k":"opened","s":"s1/n1.1"}` + "\n":                 ErrMalformed,
		head + `{"t":1,"k":"made","s":"s1/n1.1#1","fold":3}` + "\n":        ErrMalformed,
		head + `{"t":1,"k":"made","s":"s1/n1.1#1","fold":-1}` + "\n":       ErrMalformed,
		head + `{"t":1,"k":"proposed","s":"s1/n1.1#1","i":"s1:1"}` + "\n":  ErrMalformed,
		head + `{"t":1,"k":"reported","s":"s1/n1.1#1","fate":"?"}` + "\n":  ErrMalformed,
		head + `{"k":"made","s":"s1/n1.1#1","fold":0,"runs":"x"}` + "\n":   ErrMalformed,
		head + `{"k":"read","s":"s1/n1.1#1","value":"s1/n1.1#1"}` + "\n":   ErrMalformed,
		head + `{"k":"closed","s":"s1/n1.1#1","close":"somehow"}` + "\n":   ErrMalformed,
		head + `{"k":"opened","s":"s99999/n1.1#1"}` + "\n":                 ErrMalformed,
		head + `{"k":"opened","s":"s1/n1.1#1"}` + "\n" + `{"k":"ca` + "\n": ErrMalformed,
	} {
		if _, err := Read(strings.NewReader(text)); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", text, err, want)
		}
	}
}

type failing struct{ after int }

func (f *failing) Write(b []byte) (int, error) {
	if f.after--; f.after < 0 {
		return 0, io.ErrShortWrite
	}
	return len(b), nil
}

func TestWriterThatFailsIsReported(t *testing.T) {
	t.Parallel()
	r := NewRecorder(clockAt(1), &failing{after: 2})
	r.Calm()
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	r.End()
	if err := r.Err(); !errors.Is(err, io.ErrShortWrite) {
		t.Fatal(err)
	}
}

func TestMergeRefusesASubscriberTwice(t *testing.T) {
	t.Parallel()
	a, b := correct(t, 1, nil), correct(t, 2, nil)
	if _, err := Merge(a, b); !errors.Is(err, ErrMalformed) {
		t.Fatal(err)
	}
	half := &History{Logs: a.Logs[:2]}
	rest := &History{Logs: a.Logs[2:], Nodes: a.Nodes}
	m, err := Merge(rest, half)
	if err != nil || !reflect.DeepEqual(m, a) {
		t.Fatalf("merged halves differ: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	var file bytes.Buffer
	NewRecorder(clockAt(5), &file).Crash(1, 2)
	f.Add(file.Bytes())
	f.Add([]byte(`{"history":1}` + "\n" + `{"t":1,"k":"made","s":"s1/n1.1#1","fold":0,"runs":"s1/n1.1#1~1-3 s1/n1.1#1:9"}` + "\n"))
	f.Add([]byte(`{"history":1}` + "\n" + `{"t":1,"k":"stored","structure":1,"node":2,"n":18446744073709551615}` + "\n" + `{"k":"loaded","s":"s1/n1.1#1"}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if bytes.Contains(b, []byte("-")) && len(b) > 200 {
			return // runs may be long: let them be few
		}
		h, err := Read(bytes.NewReader(b))
		if err != nil {
			return
		}
		_ = Check(h, checked).Err() // whatever it says, it says it
		var again bytes.Buffer
		if err := h.Write(&again); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(&again); err != nil {
			t.Fatalf("cannot read what was written: %v", err)
		}
	})
}
