//go:build swift_http

package swift

import (
	"runtime"
	"unsafe"
)

// The import of HTTP, for a plugin.toml with `net`.

//go:wasmimport swift:plugin/http@0.1.0 send
func importSend(
	method unsafe.Pointer, methodLength uint32, url unsafe.Pointer, urlLength uint32, headers unsafe.Pointer, count uint32,
	body unsafe.Pointer, bodyLength uint32, milliseconds uint32, answer unsafe.Pointer,
)

type responseLayout struct {
	failed  uint8
	status  uint32 // its upper half means nothing; after a failure here and next lies the text
	headers span
	body    span
}

func hostSend(request *Request) (*Response, error) {
	defer forget(len(arguments))
	// A header lies as a column does: two texts. They are held by the request.
	headers := make([]column, 0, len(request.Headers))
	for _, header := range request.Headers {
		headers = append(headers, column{spanOf(header.Name), spanOf(header.Value)})
	}
	var answer responseLayout
	importSend(
		unsafe.Pointer(unsafe.StringData(request.Method)), uint32(len(request.Method)),
		unsafe.Pointer(unsafe.StringData(request.URL)), uint32(len(request.URL)),
		unsafe.Pointer(unsafe.SliceData(headers)), uint32(len(headers)),
		unsafe.Pointer(unsafe.SliceData(request.Body)), uint32(len(request.Body)),
		request.Milliseconds, unsafe.Pointer(&answer),
	)
	runtime.KeepAlive(request)
	if answer.failed != 0 {
		return nil, failure(span{answer.status, answer.headers.data}.text())
	}
	response := &Response{Status: int(answer.status & 0xffff), Body: items[byte](answer.body)}
	for _, header := range items[column](answer.headers) {
		response.Headers = append(response.Headers, Header{header.name.text(), header.json.text()})
	}
	return response, nil
}
