package swift

import (
	"errors"
	"io"
)

// Reading files. Swift lets a plugin read what the user named as a dataset or granted (--allow PLUGIN:read=FOLDER), once its
// plugin.toml asks with `read = true` under [capabilities]. Nothing can be written, and a path outside of what was granted is
// an error, whether it exists or not. Paths are absolute, as swift gave them.

// An Entry is what lies in a folder.
type Entry struct {
	Name     string
	IsFolder bool
	Size     uint64 // bytes; 0 for a folder
}

// Entries are what lies in a folder, sorted by name.
func Entries(path string) ([]Entry, error) { return hostEntries(path) }

// ReadFile is a whole file.
func ReadFile(path string) ([]byte, error) {
	file, err := OpenFile(path)
	if err != nil {
		return nil, err
	}
	bytes := make([]byte, file.size)
	read, err := io.ReadFull(file, bytes)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = nil // it became shorter
	}
	return bytes[:read], err
}

// A File is read in pieces. Wrap it in a bufio.Reader: each Read asks the host.
type File struct {
	path string
	size uint64
	at   uint64
}

// OpenFile opens the file of this absolute path at its start. There is nothing to close.
func OpenFile(path string) (*File, error) {
	size, err := hostSize(path)
	if err != nil {
		return nil, err
	}
	return &File{path: path, size: size}, nil
}

// Size is the file's length in bytes.
func (f *File) Size() uint64 { return f.size }

// Read is that of io.Reader.
func (f *File) Read(into []byte) (int, error) {
	if len(into) == 0 {
		return 0, nil
	}
	const most = 1 << 20 // what the host is asked for at once
	bytes, err := hostRead(f.path, f.at, uint32(min(len(into), most)))
	if err != nil {
		return 0, err
	}
	if len(bytes) == 0 {
		return 0, io.EOF
	}
	count := copy(into, bytes)
	f.at += uint64(count)
	return count, nil
}

// Seek is that of io.Seeker.
func (f *File) Seek(offset int64, from int) (int64, error) {
	switch from {
	case io.SeekCurrent:
		offset += int64(f.at)
	case io.SeekEnd:
		offset += int64(f.size)
	}
	if offset < 0 {
		return 0, errors.New("a place before the start of the file")
	}
	f.at = uint64(offset)
	return offset, nil
}
