// A dataset loader: text files with a query, a tab and a response in each line.
package main

import (
	"bufio"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"swift"
)

// piece is how many bytes are read at once: each read asks the host.
const piece = 1 << 16

// lines is a file that is being read.
type lines struct {
	file *bufio.Reader
	at   int64 // where the next line begins
}

// open takes for a cursor the byte offset of the next line.
func open(source *swift.Source) (swift.Reader, error) {
	at := int64(0)
	if source.Cursor != nil {
		var err error
		if at, err = strconv.ParseInt(*source.Cursor, 10, 64); err != nil {
			return nil, errors.New("the cursor is no number")
		}
	}
	file, err := swift.OpenFile(source.Location)
	if err != nil {
		return nil, err
	}
	if _, err = file.Seek(at, io.SeekStart); err != nil {
		return nil, err
	}
	return &lines{bufio.NewReaderSize(file, piece), at}, nil
}

func (l *lines) Next(limit int) (batch swift.Batch, err error) {
	for len(batch.Rows) < limit && !batch.Last {
		line, err := l.file.ReadString('\n')
		if err != nil && err != io.EOF {
			return batch, err
		}
		batch.Last = line == ""
		l.at += int64(len(line))
		if !batch.Last {
			batch.Rows = append(batch.Rows, row(line))
		}
	}
	batch.Cursor = strconv.FormatInt(l.at, 10)
	return batch, nil
}

func row(line string) swift.Rows {
	if !utf8.ValidString(line) {
		return swift.Drop("no UTF-8")
	}
	query, response, found := strings.Cut(strings.TrimRight(line, "\r\n"), "\t")
	if !found {
		return swift.Drop("no tab")
	}
	return swift.Row(`{"messages": [` + message("user", query) + `, ` + message("assistant", response) + `]}`)
}

func message(role, content string) string {
	return `{"role": ` + swift.Quote(role) + `, "content": ` + swift.Quote(content) + `}`
}

func init() {
	swift.AddLoader(swift.Loader{
		Name:    "tsv",
		Summary: "Text files with a query and a response in each line",
		Endings: []string{".tsv"},
		Open:    open,
	})
}

func main() {}
