// Package overlay builds the project with changes that never touch its source:
// each change replaces a text of a file, which must be there exactly once, and
// the compiler gets the changed files instead. Planted bugs are made so, and
// nodes of other versions.
package overlay

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Edit replaces a text of a file.
type Edit struct {
	File     string // slash-separated, from the root of the module
	Old, New string
}

// Apply returns the files that the edits change, as changed. An error means
// that a text is not there exactly once: the edit does not fit the code any more.
func Apply(root string, edits []Edit) (map[string]string, error) {
	changed := make(map[string]string)
	for _, e := range edits {
		text, ok := changed[e.File]
		if !ok {
			data, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(e.File)))
			if err != nil {
				return nil, err
			}
			text = string(data)
		}
		if n := strings.Count(text, e.Old); n != 1 {
			return nil, fmt.Errorf("%s has this text %d times, not once: fit the edit to the code:\n%s", e.File, n, e.Old)
		}
		changed[e.File] = strings.Replace(text, e.Old, e.New, 1)
	}
	return changed, nil
}

// Write writes the changed files to dir, and returns the name of the file for
// the go command's -overlay. root must be absolute.
func Write(root, dir string, edits []Edit) (string, error) {
	changed, err := Apply(root, edits)
	if err != nil {
		return "", err
	}
	replace := make(map[string]string)
	for file, text := range changed {
		to := filepath.Join(dir, strconv.Itoa(len(replace))+".go")
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(root, filepath.FromSlash(file))] = to
	}
	data, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "overlay.json")
	return name, os.WriteFile(name, data, 0o600)
}
