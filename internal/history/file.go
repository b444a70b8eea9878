package history

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// ErrNewerFormat says that a history was written by a newer version of this package.
var ErrNewerFormat = errors.New("history was written by a newer version")

// formatVersion stands in the first line of each file. Files are read by the
// version that wrote them: there is no older one to read.
const formatVersion = 1

// line is one event as JSON. IDs are texts; a fold is written once in a file,
// in runs ("s1/n1.1#1:5-9"), and then named by its number.
type line struct {
	Format    int    `json:"history,omitempty"`
	At        int64  `json:"t,omitempty"`
	Seq       uint64 `json:"q,omitempty"`
	Kind      string `json:"k,omitempty"`
	Sub       string `json:"s,omitempty"`
	ID        string `json:"i,omitempty"`
	N         uint64 `json:"n,omitempty"`
	Op        Op     `json:"op,omitempty"`
	Key       uint32 `json:"key,omitempty"`
	Fate      string `json:"fate,omitempty"`
	Close     string `json:"close,omitempty"`
	Value     string `json:"value,omitempty"`
	Fold      *int   `json:"fold,omitempty"`
	Runs      string `json:"runs,omitempty"`
	Structure uint16 `json:"structure,omitempty"`
	Node      uint16 `json:"node,omitempty"`
	Process   uint32 `json:"process,omitempty"`
	Text      string `json:"text,omitempty"`
}

// lineWriter writes events; the caller holds a lock.
type lineWriter struct {
	w     io.Writer
	err   error
	folds map[foldKey]int
}

func newLineWriter(w io.Writer) *lineWriter {
	lw := &lineWriter{w: w, folds: make(map[foldKey]int)}
	lw.put(&line{Format: formatVersion})
	return lw
}

func (w *lineWriter) put(l *line) {
	if w.err != nil {
		return
	}
	b, err := json.Marshal(l)
	if err == nil {
		_, err = w.w.Write(append(b, '\n'))
	}
	if err != nil {
		w.err = fmt.Errorf("write history: %w", err)
	}
}

func (w *lineWriter) write(sub *Subscriber, e *Event) {
	l := &line{At: e.At, Seq: e.Seq, Kind: e.Kind.String(), N: e.N, Op: e.Op, Key: e.Key}
	if sub != nil {
		l.Sub = sub.String()
	}
	if !e.ID.IsZero() {
		l.ID = e.ID.String()
	}
	if e.Fate != FateNone {
		l.Fate = e.Fate.String()
	}
	if e.Close != ClosingNone {
		l.Close = e.Close.String()
	}
	if x := e.Extra; x != nil {
		l.Structure, l.Node, l.Process, l.Text = x.Structure, x.Node, x.Process, x.Text
		if e.Kind == KindRead {
			l.Value = x.Value.String()
		}
		if x.Fold != nil {
			k := foldKey{len(x.Fold.IDs), x.Fold.Digest}
			number, known := w.folds[k]
			if !known {
				number = len(w.folds)
				w.folds[k] = number
				l.Runs = formatRuns(x.Fold.IDs)
			}
			l.Fold = &number
		}
	}
	w.put(l)
}

func formatRuns(ids []ID) string {
	var b []byte
	for _, r := range runs(ids) {
		if len(b) > 0 {
			b = append(b, ' ')
		}
		b = r.first.appendTo(b)
		if r.n > 1 {
			b = append(b, '-')
			b = strconv.AppendUint(b, r.first.Seq+r.n-1, 10)
		}
	}
	return string(b)
}

func parseRuns(text string) ([]ID, error) {
	var ids []ID
	for _, f := range strings.Fields(text) {
		first, last, ranged := strings.Cut(f, "-")
		id, err := ParseID(first)
		if err != nil {
			return nil, err
		}
		end := id.Seq
		if ranged {
			if end, err = strconv.ParseUint(last, 10, 64); err != nil || end < id.Seq || end-id.Seq >= maxSnapshotIDs {
				return nil, fmt.Errorf("%w: run %q", ErrMalformed, f)
			}
		}
		for n := end - id.Seq + 1; n > 0; n-- {
			ids = append(ids, id)
			id.Seq++
		}
	}
	return ids, nil
}

// Write writes a history as one file.
func (h *History) Write(w io.Writer) error {
	lw := newLineWriter(w)
	for i := range h.Logs {
		for k := range h.Logs[i].Events {
			lw.write(&h.Logs[i].Sub, &h.Logs[i].Events[k])
		}
	}
	for i := range h.Nodes {
		lw.write(nil, &h.Nodes[i])
	}
	return lw.err
}

// Read reads what one recorder wrote. A last line without its end was cut by
// the end of its process, and is left out; anything else that is not as it was
// written is ErrMalformed, with the number of the line. A file of a newer
// version is ErrNewerFormat.
func Read(r io.Reader) (*History, error) {
	in := bufio.NewReaderSize(r, 1<<16)
	h, logs := &History{}, make(map[Subscriber]int)
	var folds []*Fold
	for number := 1; ; number++ {
		text, err := in.ReadBytes('\n')
		if err == io.EOF {
			h.sort()
			return h, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read history: %w", err)
		}
		var l line
		if err := json.Unmarshal(text, &l); err != nil {
			return nil, fmt.Errorf("history, line %d: %w: %w", number, ErrMalformed, err)
		}
		if number == 1 {
			if l.Format > formatVersion {
				return nil, fmt.Errorf("%w: format %d, this one reads %d", ErrNewerFormat, l.Format, formatVersion)
			}
			if l.Format != formatVersion {
				return nil, fmt.Errorf("history, line 1: %w: no format", ErrMalformed)
			}
			continue
		}
		e, err := l.event(&folds)
		if err == nil {
			err = h.add(logs, l.Sub, e)
		}
		if err != nil {
			return nil, fmt.Errorf("history, line %d: %w", number, err)
		}
	}
}

func (h *History) add(logs map[Subscriber]int, sub string, e Event) error {
	if e.Kind.ofSubscriber() != (sub != "") {
		return fmt.Errorf("%w: %s of subscriber %q", ErrMalformed, e.Kind, sub)
	}
	if sub == "" {
		h.Nodes = append(h.Nodes, e)
		return nil
	}
	s, err := ParseSubscriber(sub)
	if err != nil {
		return err
	}
	i, known := logs[s]
	if !known {
		i = len(h.Logs)
		logs[s] = i
		h.Logs = append(h.Logs, Log{Sub: s})
	}
	h.Logs[i].Events = append(h.Logs[i].Events, e)
	return nil
}

func (l *line) event(folds *[]*Fold) (Event, error) {
	e := Event{At: l.At, Seq: l.Seq, N: l.N, Op: l.Op, Key: l.Key}
	kind, err := named(kindNames[:], l.Kind)
	if err != nil {
		return e, err
	}
	if e.Kind = Kind(kind); e.Kind == KindNone {
		return e, fmt.Errorf("%w: an event without a kind", ErrMalformed)
	}
	fate, err := named(fateNames[:], l.Fate)
	if err != nil {
		return e, err
	}
	e.Fate = Fate(fate)
	closing, err := named(closingNames[:], l.Close)
	if err != nil {
		return e, err
	}
	e.Close = Closing(closing)
	if l.ID != "" {
		if e.ID, err = ParseID(l.ID); err != nil {
			return e, err
		}
	}
	x := &Extra{Structure: l.Structure, Node: l.Node, Process: l.Process, Text: l.Text}
	if l.Value != "" {
		if x.Value, err = ParseID(l.Value); err != nil {
			return e, err
		}
	}
	if l.Fold != nil {
		if *l.Fold == len(*folds) {
			ids, err := parseRuns(l.Runs)
			if err != nil {
				return e, err
			}
			*folds = append(*folds, NewFold(ids))
		}
		if *l.Fold < 0 || *l.Fold >= len(*folds) {
			return e, fmt.Errorf("%w: fold %d of %d", ErrMalformed, *l.Fold, len(*folds))
		}
		x.Fold = (*folds)[*l.Fold]
	}
	if *x != (Extra{}) || e.Kind.hasExtra() {
		e.Extra = x
	}
	return e, nil
}

// named finds a name's number; no name is number 0.
func named(names []string, name string) (int, error) {
	if name == "" {
		return 0, nil
	}
	i := slices.Index(names, name)
	if i < 0 {
		return 0, fmt.Errorf("%w: %q", ErrMalformed, name)
	}
	return i, nil
}
