package id

import (
	"maps"
	"reflect"
	"testing"
)

func TestMemberSets(t *testing.T) {
	t.Parallel()
	same := func(a, b map[Replica]Node) bool {
		return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer()
	}
	var s MemberSets
	if s.Share(nil) != nil {
		t.Error("nil became something")
	}
	abc := map[Replica]Node{1: {1}, 2: {2}, 3: {3}}
	if got := s.Share(abc); !same(got, abc) {
		t.Error("the first is not kept itself")
	}
	if got := s.Share(maps.Clone(abc)); !same(got, abc) {
		t.Error("an equal one is not the first")
	}
	for _, other := range []map[Replica]Node{{}, {1: {1}, 2: {2}}, {1: {2}, 2: {1}, 3: {3}}, {1: {1}, 2: {2}, 4: {3}}} {
		if got := s.Share(other); !maps.Equal(got, other) || same(got, abc) {
			t.Errorf("%v became %v", other, got)
		}
	}
	for r := range Replica(3 * maxMemberSets) {
		want := map[Replica]Node{r + 10: {4}}
		if got := s.Share(want); !maps.Equal(got, want) {
			t.Fatalf("%v became %v", want, got)
		}
	}
	if n := len(s.sets); n > maxMemberSets {
		t.Errorf("%d sets are remembered, want %d at most", n, maxMemberSets)
	}
}
