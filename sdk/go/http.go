package swift

import "strings"

// Asking services over HTTP. Swift lets a plugin speak to the hosts that its plugin.toml names with `net = ["example.com"]`
// under [capabilities] and that the user granted (--allow PLUGIN:net=HOST). Redirects are not followed: the plugin sees them,
// and may follow one to a host that was granted too.

// A Request is what [Send] sends. Start from [GetRequest] or [PostRequest].
type Request struct {
	Method       string
	URL          string // http:// or https://
	Headers      []Header
	Body         []byte
	Milliseconds uint32 // until swift gives up; the call's own deadline may come first
}

// A Header of a request or response.
type Header struct{ Name, Value string }

// A Response is any answer, whatever its status.
type Response struct {
	Status  int
	Headers []Header
	Body    []byte
}

// patience is how long a request waits where it says nothing else.
const patience = 30_000

// GetRequest is a GET of this URL, with 30 seconds to answer.
func GetRequest(url string) *Request {
	return &Request{Method: "GET", URL: url, Milliseconds: patience}
}

// PostRequest is a POST of this JSON text, with 30 seconds to answer.
func PostRequest(url, json string) *Request {
	headers := []Header{{"content-type", "application/json"}}
	return &Request{"POST", url, headers, []byte(json), patience}
}

// Send sends a request. Any answer is a response, whatever its status; the error says why there was none.
//
//	answer, err := swift.Send(swift.PostRequest("https://judge.example.com/score", `{"text": "..."}`))
//	if err != nil {
//		return swift.Fail(err.Error())
//	}
//	body, err := swift.Parse(answer.Text())
func Send(request *Request) (*Response, error) { return hostSend(request) }

// Header is the first header of this name, in any case; "" without one.
func (r *Response) Header(name string) string {
	for _, header := range r.Headers {
		if strings.EqualFold(header.Name, name) {
			return header.Value
		}
	}
	return ""
}

// Text is the body as text; what is not UTF-8 in it is replaced.
func (r *Response) Text() string { return strings.ToValidUTF8(string(r.Body), "\ufffd") }
