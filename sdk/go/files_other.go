//go:build !wasm

package swift

import (
	"io"
	"os"
)

// Outside of swift, in an author's own tests, files are those of the system.

func hostEntries(path string) ([]Entry, error) {
	found, err := os.ReadDir(path)
	var list []Entry
	for _, one := range found {
		entry := Entry{Name: one.Name(), IsFolder: one.IsDir()}
		if details, err := one.Info(); err == nil && !entry.IsFolder {
			entry.Size = uint64(details.Size())
		}
		list = append(list, entry)
	}
	return list, err
}

func hostSize(path string) (uint64, error) {
	details, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return uint64(details.Size()), nil
}

func hostRead(path string, offset uint64, count uint32) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	bytes := make([]byte, count)
	got, err := file.ReadAt(bytes, int64(offset))
	if err == io.EOF {
		err = nil
	}
	return bytes[:got], err
}
