package report

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// The lines around a part of a document that is written by measurements.
const (
	beginMark = "<!-- results:%s -->\n"
	endMark   = "<!-- end -->\n"
)

// ErrMark says that a document has no place for some results.
var ErrMark = errors.New("no such place in the document")

// Rewrite replaces the part of a document that has a name, by what write writes.
func Rewrite(file, part string, write func(io.Writer) error) error {
	old, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("document: %w", err)
	}
	text, err := replace(old, part, write)
	if err != nil {
		return fmt.Errorf("document %s: %w", file, err)
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return fmt.Errorf("document: %w", err)
	}
	return nil
}

func replace(text []byte, part string, write func(io.Writer) error) ([]byte, error) {
	begin := fmt.Appendf(nil, beginMark, part)
	before, rest, ok := bytes.Cut(text, begin)
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrMark, bytes.TrimSpace(begin))
	}
	_, after, ok := bytes.Cut(rest, []byte(endMark))
	if !ok {
		return nil, fmt.Errorf("%w: %s after %s", ErrMark, endMark[:len(endMark)-1], bytes.TrimSpace(begin))
	}
	var b bytes.Buffer
	b.Write(before)
	b.Write(begin)
	if err := write(&b); err != nil {
		return nil, err
	}
	b.WriteString("\n" + endMark)
	b.Write(after)
	return b.Bytes(), nil
}
