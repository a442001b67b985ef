package swift

import (
	"errors"
	"strings"
)

// Chat templates: what an author fills in, and what a template is for the exports. How it crosses the contract is not known
// here.

// A Template is a chat template: a conversation to segments, and a completion back to a message. T is what Configure makes of
// the settings. It must be pure: neither clock nor what was rendered before may show.
type Template[T any] struct {
	Name    string // lower case, digits, "_" and "-"
	Summary string // one line
	// Claims says whether this is the template of a checkpoint, by its config.json and its tokenizer_config.json (with the
	// chat_template in it); what cannot be read is nil. Without it the template is chosen by name alone.
	Claims func(config, tokenizerConfig *Value) bool
	// Configure reads the tokenizer's special tokens (bos_token, eos_token, ...), which need not be read, and the user's
	// settings. Without it there are none.
	Configure func(*Settings) (T, error)
	// Render gives segments whose joined texts are what the checkpoint's own template gives. An error or a panic is the
	// error of this conversation alone.
	Render func(T, *Conversation, Form) ([]Segment, error)
	// Stops are texts that end an answer.
	Stops func(T) []string
	// Parse reads a completion back, its stop text already removed: the inverse of rendering an assistant's message.
	Parse func(T, string, *Context) Parsed
	// Parser reads one completion back while it comes. Without it everything is said at the end.
	Parser func(T, *Context) Parser
}

// A Form is what a conversation is rendered for.
type Form uint8

const (
	// PromptForm is all messages, and the opening of an answer: what a model is asked to continue.
	PromptForm Form = iota
	// TrainingForm is all messages, the last one being the assistant's, to its end.
	TrainingForm
)

// A Conversation is what a template renders.
type Conversation struct {
	Messages  []ChatMessage
	Tools     []string // definitions, each a JSON object in OpenAI's form
	Arguments Columns  // template arguments such as "enable_thinking"; unknown ones are ignored
	Date      *string  // the run's date as YYYY-MM-DD, for templates that write one
}

// A ChatMessage is one message of a conversation. Role is system, developer, user, assistant or tool.
type ChatMessage struct {
	Role       string
	Content    []Part
	Reasoning  *string // what the assistant thought before it answered
	ToolCalls  []ToolCall
	ToolCallID *string  // in a tool's result: the call it answers
	Name       *string  // in a tool's result: the tool
	Loss       *bool    // whether to train on this message, where the row says so
	LossScale  *float32 // the weight of its loss, where the row says so
}

// A Part of a message; the value of a medium is its reference.
type Part struct {
	Content Content
	Value   string
}

// Content is what a part or a segment is.
type Content uint8

// Parts are all but special tokens.
const (
	TextContent    Content = iota // in a segment: tokenised as text, whatever it looks like
	SpecialContent                // one special token of the tokenizer, by its text
	ImageContent
	AudioContent
	VideoContent
)

// A ToolCall is a call of a tool by the assistant; the arguments are JSON as the row has it.
type ToolCall struct {
	ID        *string
	Name      string
	Arguments string
}

// Text is the text of a message; an error where there is an image, audio or video in it.
func (m *ChatMessage) Text() (string, error) {
	var text strings.Builder
	for _, part := range m.Content {
		if part.Content != TextContent {
			return "", errors.New("this template has no place for images, audio or video")
		}
		text.WriteString(part.Value)
	}
	return text.String(), nil
}

// Weight is the weight of the loss of what is said in a message: 1 for the assistant and 0 for every other role, unless the
// row says otherwise.
func (m *ChatMessage) Weight() float32 {
	switch {
	case m.Loss != nil && !*m.Loss:
		return 0
	case m.LossScale != nil:
		return *m.LossScale
	case m.Loss != nil || m.Role == "assistant":
		return 1
	default:
		return 0
	}
}

// NoMessage is the message of a segment that renders none.
const NoMessage = -1

// A Segment is a piece of the rendered conversation. Neighbouring texts are tokenised as one text.
type Segment struct {
	Content Content
	Value   string
	Weight  float32 // of the loss of its tokens
	Message int     // index of the message that it renders, or NoMessage
}

// TextSegment is tokenised as text: what looks like a special token in it is not one.
func TextSegment(text string, weight float32, message int) Segment {
	return Segment{TextContent, text, weight, message}
}

// SpecialSegment is one special token of the tokenizer, by its text.
func SpecialSegment(token string, weight float32, message int) Segment {
	return Segment{SpecialContent, token, weight, message}
}

// Context is what a completion continues.
type Context struct {
	Tools     []string
	Arguments Columns
	Prefix    string // the end of the prompt that is already the assistant's ("<think>\n"), or ""
}

// Parsed is a completion, read back.
type Parsed struct {
	Content   string
	Reasoning *string
	ToolCalls []ToolCall
	Problems  []string // why it is not whole; nothing of the text is lost
}

// A Parser reads one completion back while it comes. What it says in all must be what Parse says of the whole.
type Parser interface {
	// Push takes the next piece of text, cut anywhere.
	Push(text string) []Event
	// Finish says that there is no more.
	Finish() []Event
}

// An Event is what a part of a completion adds. Make one with [ReasoningEvent], [TextEvent], [ToolCallEvent],
// [ArgumentsEvent] or [ProblemEvent].
type Event struct {
	what uint8 // as in the contract
	id   *string
	text string
}

// ReasoningEvent is more of what was thought.
func ReasoningEvent(text string) Event { return Event{0, nil, text} }

// TextEvent is more of the answer.
func TextEvent(text string) Event { return Event{1, nil, text} }

// ToolCallEvent says that a tool call has begun, and its name is known.
func ToolCallEvent(id *string, name string) Event { return Event{2, id, name} }

// ArgumentsEvent is more of the arguments of the call that began last. All of them joined are JSON.
func ArgumentsEvent(json string) Event { return Event{3, nil, json} }

// ProblemEvent is why the completion is not whole.
func ProblemEvent(why string) Event { return Event{4, nil, why} }

type template struct {
	info
	claims    func(config, tokenizerConfig *Value) bool
	configure func(*Settings) (*runningTemplate, error)
}

type runningTemplate struct {
	render func(*Conversation, Form) ([]Segment, error)
	stops  func() []string
	parse  func(string, *Context) Parsed
	parser func(*Context) Parser
}

var templates []template

// AddTemplate makes a chat template known. Call it in an init function.
func AddTemplate[T any](t Template[T]) {
	if t.Render == nil || t.Stops == nil || t.Parse == nil {
		panic("the template `" + t.Name + "` needs Render, Stops and Parse")
	}
	templates = append(templates, template{info{t.Name, t.Summary, false, nil}, t.Claims, func(settings *Settings) (*runningTemplate, error) {
		settings.fromTokenizer = true
		self, err := configured(t.Configure, settings)
		parse := func(text string, context *Context) Parsed { return t.Parse(self, text, context) }
		return &runningTemplate{
			render: func(conversation *Conversation, form Form) ([]Segment, error) {
				return renderOne(t.Render, self, conversation, form)
			},
			stops: func() []string { return t.Stops(self) },
			parse: parse,
			parser: func(context *Context) Parser {
				if t.Parser != nil {
					return t.Parser(self, context)
				}
				return &wholeParser{parse: parse, context: context}
			},
		}, err
	}})
}

// renderOne turns a panic into the error of its conversation.
func renderOne[T any](render func(T, *Conversation, Form) ([]Segment, error), self T, conversation *Conversation, form Form) (segments []Segment, err error) {
	defer func() {
		if value := recover(); value != nil {
			err = errors.New(panicText(value))
		}
	}()
	return render(self, conversation, form)
}

// claimant is the name of the template that claims a checkpoint, if one does. It never fails: a panic is a warning.
func claimant(config, tokenizerConfig string) (name string, ok bool) {
	read := func(text string) *Value {
		value, _ := parsePython(text)
		return value
	}
	for _, one := range templates {
		if one.claims != nil && claimsOne(one, read(config), read(tokenizerConfig)) {
			return one.name, true
		}
	}
	return "", false
}

func claimsOne(one template, config, tokenizerConfig *Value) (claimed bool) {
	defer func() {
		if value := recover(); value != nil {
			Warn(one.name + " claims nothing: " + panicText(value))
		}
	}()
	return one.claims(config, tokenizerConfig)
}

// wholeParser is the parser of a template that has none: it keeps the pieces, and says at the end what Parse says of them.
type wholeParser struct {
	parse   func(string, *Context) Parsed
	context *Context
	text    strings.Builder
}

func (w *wholeParser) Push(text string) []Event {
	w.text.WriteString(text)
	return nil
}

func (w *wholeParser) Finish() (events []Event) {
	parsed := w.parse(w.text.String(), w.context)
	if parsed.Reasoning != nil {
		events = append(events, ReasoningEvent(*parsed.Reasoning))
	}
	if parsed.Content != "" {
		events = append(events, TextEvent(parsed.Content))
	}
	for _, call := range parsed.ToolCalls {
		events = append(events, ToolCallEvent(call.ID, call.Name), ArgumentsEvent(call.Arguments))
	}
	for _, problem := range parsed.Problems {
		events = append(events, ProblemEvent(problem))
	}
	return events
}
