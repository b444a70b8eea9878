package sim

import "github.com/copycat-replication/copycat/internal/vfs"

// lyingDisk says that it has synced files, and has not: the bug that is planted
// to see whether a run finds it, and how small it can be made.
type lyingDisk struct{ *vfs.Mem }

func (d lyingDisk) OpenReadWrite(name string) (vfs.File, error) {
	return lying(d.Mem.OpenReadWrite(name))
}
func (d lyingDisk) Create(name string) (vfs.File, error) { return lying(d.Mem.Create(name)) }

func lying(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return lyingFile{f}, nil
}

type lyingFile struct{ vfs.File }

func (lyingFile) SyncData() error { return nil }
