package catalog

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/copycat-replication/copycat/id"
	"github.com/copycat-replication/copycat/pb/catalogpb"
)

// page bounds the records in one answer: some hundred kilobytes.
const page = 1000

// List returns the records of all structures that live, in the order of their
// IDs: as of a moment after it was called, or a little later. It needs the
// catalog's quorum, and waits for it until ctx ends (ErrCatalogUnavailable).
// Its cost is one command, and memory for all records.
func (s *Service) List(ctx context.Context) ([]Record, error) {
	now, err := s.command(ctx, barrierCommand{})
	if err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	var out []Record
	for after := []byte(nil); ; {
		records, last, err := s.list(ctx, now.Index, after)
		if err != nil {
			return nil, fmt.Errorf("list: %w", err)
		}
		out = append(out, records...)
		if len(last) == 0 {
			return out, nil
		}
		after = last
	}
}

// list asks a holder that has reached an index for one page.
func (s *Service) list(ctx context.Context, index uint64, after []byte) (records []Record, last []byte, err error) {
	m, err := ask(ctx, s, func(ctx context.Context, node id.Node) (*catalogpb.ListResponse, error) {
		req := &catalogpb.ListRequest{Index: index, After: after}
		if node == s.cfg.Node {
			return s.listHere(req)
		}
		m := new(catalogpb.ListResponse)
		return m, s.call(ctx, node, methodList, req, m)
	})
	if err != nil {
		return nil, nil, err
	}
	for _, r := range m.Records {
		rec, err := decodeRecord(r)
		if err != nil {
			return nil, nil, err
		}
		records = append(records, rec)
	}
	return records, m.Last, nil
}

func (s *Service) serveList(request []byte) (protoMessage, error) {
	var m catalogpb.ListRequest
	if err := unmarshal(callMagic, callVersion, request, &m); err != nil {
		return nil, err
	}
	return s.listHere(&m)
}

// listHere reads a page off the machine here.
func (s *Service) listHere(req *catalogpb.ListRequest) (*catalogpb.ListResponse, error) {
	if !s.follows() {
		return nil, errNotHolder
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.machine.Index() < req.Index {
		return nil, fmt.Errorf("%w: this replica of the catalog is at %d, asked as of %d", errAgain, s.machine.Index(), req.Index)
	}
	var after id.Structure
	copy(after[:], req.After)
	records, more := s.machine.list(after, page)
	m := new(catalogpb.ListResponse)
	for _, r := range records {
		m.Records = append(m.Records, r.encode())
	}
	if more {
		last := records[len(records)-1].Structure
		m.Last = last[:]
	}
	return m, nil
}

// list returns up to n records of structures that live, behind one, in order.
func (m *Machine) list(after id.Structure, n int) (out []Record, more bool) {
	var found []id.Structure
	for s, r := range m.records {
		if r.Lives() && bytes.Compare(s[:], after[:]) > 0 {
			found = append(found, s)
		}
	}
	slices.SortFunc(found, func(a, b id.Structure) int { return bytes.Compare(a[:], b[:]) })
	for _, s := range found[:min(n, len(found))] {
		out = append(out, m.records[s])
	}
	return out, len(found) > n
}
