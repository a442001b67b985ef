package swift

import "unsafe"

// The canonical ABI of components, in as much as the contracts need it. Records, lists and variants lie in memory as Go lays
// out structs of fixed-size fields; building a plugin checks the signatures of the exports against the contracts. There are no
// generated bindings, so that a plugin needs no module but this one.

//go:wasmimport swift:plugin/log@0.1.0 log
func importLog(level int32, data unsafe.Pointer, length uint32)

//go:wasmimport swift:plugin/log@0.1.0 abort
func importAbort(data unsafe.Pointer, length uint32)

func hostLog(level int32, message string) {
	importLog(level, unsafe.Pointer(unsafe.StringData(message)), uint32(len(message)))
}

// abort ends the call with this message.
func abort(message string) {
	importAbort(unsafe.Pointer(unsafe.StringData(message)), uint32(len(message)))
}

// span is a string or list in memory.
type span struct{ data, length uint32 }

func (s span) text() string {
	if s.length == 0 {
		return ""
	}
	return unsafe.String((*byte)(unsafe.Pointer(uintptr(s.data))), s.length)
}

// bits are a pointer and a length as they lie in memory.
func (s span) bits() uint64 { return uint64(s.data) | uint64(s.length)<<32 }

// items is a list whose elements are laid out as T. An empty list has no memory, and its address means nothing.
func items[T any](s span) []T {
	if s.length == 0 {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(uintptr(s.data))), s.length)
}

// Memory that the collector does not see being used: the arguments of a call that the host writes before it begins, and the
// results that it reads after it ended.
var (
	arguments [][]uint64
	results   []any
)

//go:wasmexport cabi_realloc
func hostRealloc(old, oldSize, _, size uint32) uint32 {
	if size == 0 {
		return 8 // any address that is aligned
	}
	memory := make([]uint64, (size+7)/8)
	if oldSize > 0 {
		bytes := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(memory))), size)
		copy(bytes, items[byte](span{old, oldSize}))
	}
	arguments = append(arguments, memory)
	return address(unsafe.Pointer(unsafe.SliceData(memory)))
}

func address(memory unsafe.Pointer) uint32 { return uint32(uintptr(memory)) }

func sendText(text string) span {
	if text == "" {
		return span{}
	}
	results = append(results, text)
	return spanOf(text)
}

// spanOf is where a text lies; the caller holds it.
func spanOf(text string) span {
	return span{address(unsafe.Pointer(unsafe.StringData(text))), uint32(len(text))}
}

func sendItems[T any](list []T) span {
	if len(list) == 0 {
		return span{}
	}
	results = append(results, list)
	return span{address(unsafe.Pointer(unsafe.SliceData(list))), uint32(len(list))}
}

func sendTexts(texts []string) span {
	var spans []span
	for _, text := range texts {
		spans = append(spans, sendText(text))
	}
	return sendItems(spans)
}

// texts is a list of strings.
func texts(s span) []string {
	list := make([]string, 0, s.length)
	for _, text := range items[span](s) {
		list = append(list, text.text())
	}
	return list
}

// optionalText is option<string>.
type optionalText struct {
	given   uint8
	payload span
}

func (o optionalText) text() *string {
	if o.given == 0 {
		return nil
	}
	text := o.payload.text()
	return &text
}

func sendOptional(text *string) optionalText {
	if text == nil {
		return optionalText{}
	}
	return optionalText{1, sendText(*text)}
}

// result is result<list<T>, string> and result<_, string>: both payloads are a pointer and a length.
type result struct {
	failed  uint32
	payload span
}

var (
	answered result
	listed   span
	optional optionalText
)

// replyOptional is the address of a call's option<string>.
func replyOptional(text *string) uint32 {
	optional = sendOptional(text)
	return address(unsafe.Pointer(&optional))
}

// reply is the address of a call's result.
func reply(payload span, err error) uint32 {
	answered = result{0, payload}
	if err != nil {
		answered = result{1, sendText(err.Error())}
	}
	return address(unsafe.Pointer(&answered))
}

// err is what the host answered with instead of a result.
func (r *result) err() error {
	if r.failed&0xff == 0 {
		return nil
	}
	return failure(r.payload.text())
}

// forget lets go of what the host wrote during a call of ours: all that came after the first `kept` pieces. What was made of it
// holds what it uses.
func forget(kept int) {
	clear(arguments[kept:])
	arguments = arguments[:kept]
}

// begin forgets the results of the call before. What the arguments point to stays as long as something of it is used.
func begin() { results = nil }

// guard hands a panic over to the host: a call that panics ends with the message, and the instance with it.
func guard() {
	if value := recover(); value != nil {
		abort(panicText(value))
	}
}

// column lies in memory as the host writes it.
type column struct{ name, json span }

func columns(s span) Columns {
	list := make(Columns, 0, s.length)
	for _, column := range items[column](s) {
		list = append(list, Column{column.name.text(), column.json.text()})
	}
	return list
}

// infoLayout is the record `info` of rewards and metrics.
type infoLayout struct {
	name, summary span
	flag          uint32
}

func sendInfo(i info) infoLayout {
	layout := infoLayout{sendText(i.name), sendText(i.summary), 0}
	if i.flag {
		layout.flag = 1
	}
	return layout
}

// held are the resources that the host holds, by the number that stands for each.
type held[T any] map[uint32]T

// lastHeld is the largest number so far.
var lastHeld uint32

func (h held[T]) hold(one T) uint32 {
	lastHeld++
	h[lastHeld] = one
	return lastHeld
}

// choose finds what has this name, and its settings.
func choose[T any](kind string, list []T, infoOf func(*T) info, name, config span) (*T, *Settings, error) {
	known := ""
	for i := range list {
		this := infoOf(&list[i]).name
		if this == name.text() {
			settings, err := ParseSettings(config.text())
			return &list[i], settings, err
		}
		known += " `" + this + "`"
	}
	return nil, nil, failure("there is no " + kind + " `" + name.text() + "` here; there is" + known)
}
