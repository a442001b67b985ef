//go:build swift_files

package swift

import "unsafe"

// The import of files, for a plugin.toml with `read = true`.

//go:wasmimport swift:plugin/files@0.1.0 entries
func importEntries(path unsafe.Pointer, length uint32, answer unsafe.Pointer)

//go:wasmimport swift:plugin/files@0.1.0 size
func importSize(path unsafe.Pointer, length uint32, answer unsafe.Pointer)

//go:wasmimport swift:plugin/files@0.1.0 read
func importRead(path unsafe.Pointer, length uint32, offset uint64, count uint32, answer unsafe.Pointer)

type entryLayout struct {
	name     span
	isFolder uint8
	size     uint64
}

func hostEntries(path string) ([]Entry, error) {
	defer forget(len(arguments))
	var answer result
	importEntries(unsafe.Pointer(unsafe.StringData(path)), uint32(len(path)), unsafe.Pointer(&answer))
	if err := answer.err(); err != nil {
		return nil, err
	}
	list := make([]Entry, 0, answer.payload.length)
	for _, entry := range items[entryLayout](answer.payload) {
		list = append(list, Entry{entry.name.text(), entry.isFolder != 0, entry.size})
	}
	return list, nil
}

func hostSize(path string) (uint64, error) {
	defer forget(len(arguments))
	// result<u64, string>: the number lies where the text's place does.
	var answer struct {
		failed  uint8
		payload uint64
	}
	importSize(unsafe.Pointer(unsafe.StringData(path)), uint32(len(path)), unsafe.Pointer(&answer))
	if answer.failed != 0 {
		return 0, failure(span{uint32(answer.payload), uint32(answer.payload >> 32)}.text())
	}
	return answer.payload, nil
}

func hostRead(path string, offset uint64, count uint32) ([]byte, error) {
	defer forget(len(arguments))
	var answer result
	importRead(unsafe.Pointer(unsafe.StringData(path)), uint32(len(path)), offset, count, unsafe.Pointer(&answer))
	return items[byte](answer.payload), answer.err()
}
