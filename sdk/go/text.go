package swift

import "strings"

// Texts are taken apart by ASCII alone, as the SDKs of all languages do, so that the same plugin in another language scores
// the same.

func isSpace(c rune) bool { return c == ' ' || c >= '\t' && c <= '\r' }

// Trim is the text without the ASCII whitespace at its ends.
func Trim(text string) string { return strings.TrimFunc(text, isSpace) }

// Words are what lies between ASCII whitespace.
func Words(text string) []string { return strings.FieldsFunc(text, isSpace) }

// Lowercase is the text with its ASCII letters in lower case.
func Lowercase(text string) string {
	return strings.Map(func(c rune) rune {
		if c >= 'A' && c <= 'Z' {
			return c + ('a' - 'A')
		}
		return c
	}, text)
}
