package main

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/copycat-replication/copycat"
)

func (f *fake) Status() copycat.Status {
	return copycat.Status{NodeID: "N", Storage: errors.New("full"), Structures: []copycat.StructureStatus{{Role: "leader", LastError: errors.New("odd")}}}
}

// request asks the interface on a fake; commit tells whether what it proposes
// is committed.
func request(f *fake, a *api, method, path, body string, commit bool) *httptest.ResponseRecorder {
	go func() {
		select {
		case p := <-f.propose:
			if commit {
				f.commits <- p
			}
		case <-time.After(time.Hour):
		}
	}()
	w := httptest.NewRecorder()
	a.handler().ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w
}

func TestHTTP(t *testing.T) {
	onFake(t, func(t *testing.T, f *fake, m *Map) {
		a := &api{node: "a", cc: f, m: m, timeout: time.Second, log: m.log}
		for _, c := range []struct {
			method, path, body string
			commit             bool
			code               int
			text               string
		}{
			{"GET", "/keys/k", "", false, 404, "no such key"},
			{"PUT", "/keys/k", "value", true, 200, ""},
			{"GET", "/keys/k", "", false, 200, "value"},
			{"PUT", "/keys/a%2Fb", "", true, 200, ""},
			{"GET", "/keys", "", false, 200, `"a/b": ""`},
			{"PUT", "/keys/lost", "value", false, 503, "outcome is unknown"},
			{"PUT", "/keys/k", strings.Repeat("x", maxValue+1), false, 413, "not made"},
			{"DELETE", "/keys/k", "", true, 200, ""},
			{"GET", "/keys/k", "", false, 404, ""},
			{"GET", "/status", "", false, 200, `"storage": "full"`},
			{"POST", "/keys/k", "", false, 405, ""},
		} {
			w := request(f, a, c.method, c.path, c.body, c.commit)
			if w.Code != c.code || !strings.Contains(w.Body.String(), c.text) {
				t.Errorf("%s %s: %d %q, want %d %q", c.method, c.path, w.Code, w.Body, c.code, c.text)
			}
			time.Sleep(2 * time.Hour) // of virtual time: the helper of this request ends
		}
		f.end()
		synctest.Wait()
		if w := request(f, a, http.MethodPut, "/keys/k", "late", false); w.Code != 503 || !strings.Contains(w.Body.String(), "not made") {
			t.Errorf("after the end: %d %q", w.Code, w.Body)
		}
		time.Sleep(2 * time.Hour)
	})
}
