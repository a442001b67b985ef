//go:build !wasm

package swift

import (
	"bytes"
	"io"
	"net/http"
	"time"
)

// Outside of swift, in an author's own tests, requests are really sent.
func hostSend(request *Request) (*Response, error) {
	sent, err := http.NewRequest(request.Method, request.URL, bytes.NewReader(request.Body))
	if err != nil {
		return nil, err
	}
	for _, header := range request.Headers {
		sent.Header.Add(header.Name, header.Value)
	}
	client := http.Client{
		Timeout:       time.Duration(request.Milliseconds) * time.Millisecond,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	got, err := client.Do(sent)
	if err != nil {
		return nil, err
	}
	defer got.Body.Close()
	response := &Response{Status: got.StatusCode}
	for name, values := range got.Header {
		for _, value := range values {
			response.Headers = append(response.Headers, Header{name, value})
		}
	}
	response.Body, err = io.ReadAll(got.Body)
	return response, err
}
