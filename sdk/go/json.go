package swift

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A Kind of JSON value.
type Kind int

// The kinds of JSON values.
const (
	Null Kind = iota
	Bool
	NumberKind
	TextKind
	Array
	Object
)

// A Value is JSON. Its methods work on nil, which is a value that is not there.
type Value struct {
	Kind   Kind
	Source string // as it was written: numbers keep their digits
	Key    string // in an object
	text   string
	items  []Value
}

// maxDepth is the deepest nesting of JSON that is read.
const maxDepth = 128

// Parse reads a JSON text.
func Parse(text string) (*Value, error) {
	return reader{text: text}.whole()
}

// parsePython reads what Python's json module writes: NaN, Infinity and -Infinity besides.
func parsePython(text string) (*Value, error) {
	return reader{text: text, python: true}.whole()
}

func (r reader) whole() (*Value, error) {
	var value Value
	if !r.value(&value) || r.at != len(r.text) {
		return nil, errors.New("not JSON at byte " + strconv.Itoa(r.at))
	}
	return &value, nil
}

// Get is the value of a key; nil when this is no object, or lacks it.
func (v *Value) Get(key string) *Value {
	if v == nil || v.Kind != Object {
		return nil
	}
	// Of equal keys the last one counts, as everywhere.
	for i := len(v.items) - 1; i >= 0; i-- {
		if v.items[i].Key == key {
			return &v.items[i]
		}
	}
	return nil
}

// Items are the entries of a list or object.
func (v *Value) Items() []Value {
	if v == nil {
		return nil
	}
	return v.items
}

// Bool is true or false; ok says whether the value is one of them.
func (v *Value) Bool() (truth, ok bool) {
	return v != nil && v.Kind == Bool && v.Source == "true", v != nil && v.Kind == Bool
}

// Text is the value's text.
func (v *Value) Text() (text string, ok bool) {
	if v == nil || v.Kind != TextKind {
		return "", false
	}
	return v.text, true
}

// Number is the value as a finite number.
func (v *Value) Number() (number float64, ok bool) {
	if v == nil || v.Kind != NumberKind {
		return 0, false
	}
	number, err := strconv.ParseFloat(v.Source, 64)
	return number, err == nil && !math.IsNaN(number) && !math.IsInf(number, 0)
}

// Integer is the value as a whole number; 8.0 and 1e3 are whole too.
func (v *Value) Integer() (number int64, ok bool) {
	if v == nil || v.Kind != NumberKind {
		return 0, false
	}
	if number, err := strconv.ParseInt(v.Source, 10, 64); err == nil {
		return number, true
	}
	if !strings.ContainsAny(v.Source, ".eE") {
		return 0, false
	}
	real, ok := v.Number()
	if !ok || real != math.Trunc(real) || math.Abs(real) > 1<<53 {
		return 0, false
	}
	return int64(real), true
}

// Quote is a text as JSON.
func Quote(text string) string {
	const hexadecimal = "0123456789abcdef"
	var out strings.Builder
	out.WriteByte('"')
	for _, c := range strings.ToValidUTF8(text, "\ufffd") {
		switch {
		case c == '"' || c == '\\':
			out.WriteByte('\\')
			out.WriteRune(c)
		case c == '\n':
			out.WriteString(`\n`)
		case c < 0x20:
			out.WriteString(`\u00`)
			out.WriteByte(hexadecimal[c>>4])
			out.WriteByte(hexadecimal[c&15])
		default:
			out.WriteRune(c)
		}
	}
	out.WriteByte('"')
	return out.String()
}

// Columns are further columns of a row.
type Columns []Column

// A Column is a name, and a value as JSON.
type Column struct{ Name, JSON string }

// Get is the value of a column; nil when there is none of this name.
func (c Columns) Get(name string) *Value {
	for _, column := range c {
		if column.Name == name {
			value, _ := Parse(column.JSON)
			return value
		}
	}
	return nil
}

type reader struct {
	text   string
	at     int
	depth  int
	python bool
}

func (r *reader) skipSpace() {
	for r.at < len(r.text) && strings.IndexByte(" \t\n\r", r.text[r.at]) >= 0 {
		r.at++
	}
}

func (r *reader) take(word string) bool {
	if !strings.HasPrefix(r.text[r.at:], word) {
		return false
	}
	r.at += len(word)
	return true
}

// value reads a value with the space around it.
func (r *reader) value(out *Value) bool {
	r.skipSpace()
	start, ok := r.at, false
	if start == len(r.text) {
		return false
	}
	switch c := r.text[start]; c {
	case '{':
		out.Kind, ok = Object, r.entries(out, "{", "}")
	case '[':
		out.Kind, ok = Array, r.entries(out, "[", "]")
	case '"':
		out.Kind = TextKind
		out.text, ok = r.quoted()
	case 't':
		out.Kind, ok = Bool, r.take("true")
	case 'f':
		out.Kind, ok = Bool, r.take("false")
	case 'n':
		out.Kind, ok = Null, r.take("null")
	default:
		out.Kind, ok = NumberKind, r.number()
	}
	out.Source = r.text[start:r.at]
	r.skipSpace()
	return ok
}

func (r *reader) entries(out *Value, open, end string) bool {
	if r.depth++; r.depth > maxDepth {
		return false
	}
	r.take(open)
	r.skipSpace()
	if !r.take(end) {
		for more := true; more; more = r.take(",") {
			var entry Value
			if end == "}" {
				r.skipSpace()
				var ok bool
				if entry.Key, ok = r.quoted(); !ok {
					return false
				}
				r.skipSpace()
				if !r.take(":") {
					return false
				}
			}
			if !r.value(&entry) {
				return false
			}
			out.items = append(out.items, entry)
		}
		if !r.take(end) {
			return false
		}
	}
	r.depth--
	return true
}

func (r *reader) digits() bool {
	start := r.at
	for r.at < len(r.text) && r.text[r.at] >= '0' && r.text[r.at] <= '9' {
		r.at++
	}
	return r.at > start
}

func (r *reader) number() bool {
	if r.python && (r.take("NaN") || r.take("Infinity") || r.take("-Infinity")) {
		return true
	}
	r.take("-")
	if !r.take("0") && !r.digits() {
		return false
	}
	if r.take(".") && !r.digits() {
		return false
	}
	if r.take("e") || r.take("E") {
		if !r.take("+") {
			r.take("-")
		}
		return r.digits()
	}
	return true
}

func (r *reader) quoted() (string, bool) {
	if !r.take(`"`) {
		return "", false
	}
	start := r.at
	var out []byte // once there was an escape
	for r.at < len(r.text) {
		c := r.text[r.at]
		r.at++
		switch {
		case c == '"' && out == nil:
			return r.text[start : r.at-1], true
		case c == '"':
			return string(out), true
		case c < 0x20:
			return "", false
		case c == '\\':
			if out == nil {
				out = append(make([]byte, 0, 2*(r.at-start)+16), r.text[start:r.at-1]...)
			}
			escaped, ok := r.escape()
			if !ok {
				return "", false
			}
			out = utf8.AppendRune(out, escaped)
		case out != nil:
			out = append(out, c)
		}
	}
	return "", false
}

// escape reads the rest of an escape after its backslash. Half a surrogate pair becomes U+FFFD.
func (r *reader) escape() (rune, bool) {
	if r.at == len(r.text) {
		return 0, false
	}
	c := r.text[r.at]
	r.at++
	if i := strings.IndexByte(`"\/bfnrt`, c); i >= 0 {
		return rune("\"\\/\b\f\n\r\t"[i]), true
	}
	code, ok := rune(0), c == 'u'
	if ok {
		code, ok = r.hex()
	}
	if ok && code >= 0xd800 && code < 0xdc00 {
		ahead := *r
		if ahead.take(`\u`) {
			if low, ok := ahead.hex(); ok && low >= 0xdc00 && low < 0xe000 {
				*r = ahead
				return 0x10000 + (code-0xd800)<<10 + (low - 0xdc00), true
			}
		}
	}
	return code, ok // a lone surrogate is no rune: utf8.AppendRune writes U+FFFD for it
}

func (r *reader) hex() (rune, bool) {
	if len(r.text)-r.at < 4 {
		return 0, false
	}
	var code rune
	for _, c := range []byte(r.text[r.at : r.at+4]) {
		digit := strings.IndexByte("0123456789abcdef", c|0x20)
		if digit < 0 || c < '0' {
			return 0, false
		}
		code = code<<4 | rune(digit)
	}
	r.at += 4
	return code, true
}
