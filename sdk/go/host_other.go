//go:build !wasm

package swift

// Outside of swift, in an author's own tests, lines go to the standard error stream.
func hostLog(_ int32, message string) { println(message) }
