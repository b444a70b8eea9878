package id

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestStructureRoundTrip(t *testing.T) {
	t.Parallel()
	const text = "01CFR5R4JJE9KNRAJFFEAQ2SAJ"
	s, err := ParseStructure(text)
	if err != nil {
		t.Fatal(err)
	}
	if s.String() != text {
		t.Fatalf("printed %q, want %q", s.String(), text)
	}
	if lower, err := ParseStructure(strings.ToLower(text)); err != nil || lower != s {
		t.Fatalf("in lower case: %v, %v", lower, err)
	}
	back, err := StructureFromBytes(s[:])
	if err != nil || back != s {
		t.Fatalf("from bytes: %v, %v", back, err)
	}
}

func TestMalformed(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "short", "01CFR5R4JJE9KNRAJFFEAQ2SAJX", "01CFR5R4JJE9KNRAJFFEAQ2SA!", "U1CFR5R4JJE9KNRAJFFEAQ2SAJ",
		"81CFR5R4JJE9KNRAJFFEAQ2SAJ", "01CFR5R4JJE9KNRAJFFEAQ2SA\x00", "01CFR5R4JJE9KNRAJFFEAQ2Sé", "01CFR5R4JJE9KNRAJFFEAQ2SéJ", "01CFR5R4JJE9KNRAJFFEAQ2S\xff\xff",
		strings.Repeat("界", 26), " 01CFR5R4JJE9KNRAJFFEAQ2SA"} {
		if _, err := ParseStructure(text); !errors.Is(err, ErrMalformed) {
			t.Errorf("ParseStructure(%q): %v, want ErrMalformed", text, err)
		}
	}
	if _, err := NodeFromBytes([]byte{1}); !errors.Is(err, ErrMalformed) {
		t.Errorf("NodeFromBytes: %v", err)
	}
	if _, err := ClusterFromBytes(nil); !errors.Is(err, ErrMalformed) {
		t.Errorf("ClusterFromBytes: %v", err)
	}
}

func TestNewIsSeeded(t *testing.T) {
	t.Parallel()
	at := time.Unix(1, 0)
	a, err := NewNode(at, strings.NewReader("0123456789"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewNode(at, strings.NewReader("0123456789"))
	if err != nil || a != b {
		t.Fatalf("same time and entropy gave %s and %s (%v)", a, b, err)
	}
}

func TestIncarnationOrder(t *testing.T) {
	t.Parallel()
	a, b, c := Incarnation{Birth: 1, Recovery: 9}, Incarnation{Birth: 2}, Incarnation{Birth: 2, Recovery: 1}
	if !a.Less(b) || !b.Less(c) || c.Less(a) || a.Less(a) {
		t.Fatal("order is birth first, then recovery")
	}
	if c.String() != "2.1" || b.String() != "2" {
		t.Fatalf("printed %s and %s", c, b)
	}
}

// TestParseIncarnation: what String prints, and nothing else.
func TestParseIncarnation(t *testing.T) {
	t.Parallel()
	for _, a := range []Incarnation{{Birth: 1}, {Birth: 1 << 40, Recovery: 7}, {Birth: 17, Recovery: 1<<16 | 0xa3f2}, {Birth: 2, Recovery: 1<<32 - 1}} {
		if got, err := ParseIncarnation(a.String()); err != nil || got != a {
			t.Errorf("%s: %+v, %v", a, got, err)
		}
	}
	for _, text := range []string{"", "x", "1.", "1.x", "1.1-", "1.1-fffff", "1.70000-0000", "-1"} {
		if got, err := ParseIncarnation(text); err == nil {
			t.Errorf("%q is read as %s", text, got)
		}
	}
}

// An ID in JSON is its text, as a value and as a key, and is read as strictly.
func TestStructureInJSON(t *testing.T) {
	t.Parallel()
	s, err := ParseStructure("01CFR5R4JJE9KNRAJFFEAQ2SAJ")
	if err != nil {
		t.Fatal(err)
	}
	type holder struct {
		One  *Structure
		Many map[Structure]int
	}
	b, err := json.Marshal(holder{&s, map[Structure]int{s: 7}})
	if want := `{"One":"01CFR5R4JJE9KNRAJFFEAQ2SAJ","Many":{"01CFR5R4JJE9KNRAJFFEAQ2SAJ":7}}`; err != nil || string(b) != want {
		t.Fatalf("%s, %v, want %s", b, err, want)
	}
	var back holder
	if err := json.Unmarshal(b, &back); err != nil || *back.One != s || back.Many[s] != 7 {
		t.Fatalf("%+v, %v", back, err)
	}
	kept := s
	if err := json.Unmarshal([]byte(`"01CFR5R4JJE9KNRAJFFEAQ2SAI"`), &kept); !errors.Is(err, ErrMalformed) || kept != s {
		t.Fatalf("%v, %v", kept, err)
	}
}
