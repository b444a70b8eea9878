//go:build !linux || !(amd64 || arm64 || loong64 || ppc64le || riscv64)

package vfs

import "os"

// syncBeside is for Linux.
func syncBeside(*os.File) (bool, error) { return false, nil }

// writeBeside is for Linux.
func writeBeside(*os.File, []byte, int64) (bool, int, error) { return false, 0, nil }
