//go:build !swift_http

package swift

// A plugin whose plugin.toml does not ask for hosts: each call says how to ask.

func hostSend(*Request) (*Response, error) {
	return nil, failure("no host can be asked: add `net = [\"HOST\"]` under [capabilities] in plugin.toml")
}
