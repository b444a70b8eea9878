package procrig

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// deadly are texts that a process of a rig must never print: the runtime's when
// it dies, and the race detector's, whose exit code a SIGKILL hides.
var deadly = []string{"WARNING: DATA RACE", "panic: ", "fatal error: ", "runtime error: "}

// maxComplaints bounds what is reported of one file.
const maxComplaints = 10

// checkLogs reads what all processes have logged. An error in it is a failure,
// unless the test has broken something about which CopyCat has to complain
// (Options.Complaints).
func (r *Rig) checkLogs() error {
	files, err := filepath.Glob(filepath.Join(r.dir, "node*.log"))
	if err != nil {
		return err
	}
	var faults []error
	for _, name := range files {
		found, err := complaints(name, r.opt.Complaints)
		for _, line := range found {
			faults = append(faults, fmt.Errorf("%s: %s", filepath.Base(name), line))
		}
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// complaints are the lines of a log that should not be there.
func complaints(name string, expected []string) (found []string, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() && len(found) < maxComplaints {
		line := lines.Text()
		is := func(text string) bool { return strings.Contains(line, text) }
		if slices.ContainsFunc(deadly, is) || strings.Contains(line, "level=ERROR") && !slices.ContainsFunc(expected, is) {
			found = append(found, line)
		}
	}
	return found, lines.Err()
}
