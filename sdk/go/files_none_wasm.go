//go:build !swift_files

package swift

// A plugin whose plugin.toml does not ask for files: each call says how to ask.

const filesNotAsked failure = "files cannot be read: add `read = true` under [capabilities] in plugin.toml"

func hostEntries(string) ([]Entry, error) { return nil, filesNotAsked }

func hostSize(string) (uint64, error) { return 0, filesNotAsked }

func hostRead(string, uint64, uint32) ([]byte, error) { return nil, filesNotAsked }
