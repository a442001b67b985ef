// Says back all that templates, loaders, configs, files and hosts give it: for the tests of the SDK.
package main

import (
	"errors"
	"strconv"
	"strings"

	"swift"
)

func or(text *string) string {
	if text == nil {
		return "none"
	}
	return *text
}

func real(number float64) string { return strconv.FormatFloat(number, 'g', -1, 64) }

func given(tools []string, arguments swift.Columns) string {
	text := strings.Join(tools, " ")
	for _, argument := range arguments {
		text += " " + argument.Name + "=" + argument.JSON
	}
	return text
}

func calls(list []swift.ToolCall) (text string) {
	for _, call := range list {
		text += " " + or(call.ID) + " " + call.Name + " " + call.Arguments
	}
	return text
}

type probe struct{ bos string }

func (p probe) render(conversation *swift.Conversation, form swift.Form) ([]swift.Segment, error) {
	if form == swift.PromptForm {
		if len(conversation.Messages) == 0 {
			return nil, errors.New("nothing " + conversation.Messages[0].Role)
		}
		return []swift.Segment{
			swift.TextSegment("é", 0.5, 1),
			swift.SpecialSegment(p.bos, 0, swift.NoMessage),
			{Content: swift.ImageContent, Value: "i"},
			{Content: swift.AudioContent, Value: "a"},
			{Content: swift.VideoContent, Value: "v"},
		}, nil
	}
	text := given(conversation.Tools, conversation.Arguments) + " " + or(conversation.Date)
	for i := range conversation.Messages {
		message := &conversation.Messages[i]
		text += " / " + message.Role
		for _, part := range message.Content {
			text += " " + strconv.Itoa(int(part.Content)) + ":" + part.Value
		}
		text += " " + or(message.Reasoning) + calls(message.ToolCalls) + " " + or(message.ToolCallID) + " " + or(message.Name) +
			" " + real(float64(message.Weight()))
	}
	return nil, errors.New(text)
}

func (probe) parse(completion string, context *swift.Context) swift.Parsed {
	id := "7"
	return swift.Parsed{
		Content:   completion,
		Reasoning: &context.Prefix,
		ToolCalls: []swift.ToolCall{{ID: &id, Name: "f", Arguments: "{}"}, {Name: given(context.Tools, context.Arguments)}},
		Problems:  []string{"one", "two"},
	}
}

type parser struct{ prefix string }

func (p parser) Push(text string) []swift.Event {
	id := "7"
	return []swift.Event{
		swift.ReasoningEvent(text), swift.TextEvent("t"), swift.ToolCallEvent(&id, "f"), swift.ToolCallEvent(nil, ""),
		swift.ArgumentsEvent("{}"), swift.ProblemEvent("p"),
	}
}

func (p parser) Finish() []swift.Event { return []swift.Event{swift.TextEvent(p.prefix)} }

func claims(config, tokenizerConfig *swift.Value) bool {
	modelType, ok := config.Get("model_type").Text()
	if !ok {
		panic("no model_type")
	}
	return modelType == "probe" && tokenizerConfig != nil
}

type reader struct{ source *swift.Source }

func open(source *swift.Source) (swift.Reader, error) {
	if source.Settings.Bool("refuse", false) {
		return nil, errors.New("no " + source.Location + " " + or(source.Subset) + " " + or(source.Cursor))
	}
	return reader{source}, nil
}

func (reader) Length() uint64 { return 1 << 40 }

func (r reader) Next(limit int) (swift.Batch, error) {
	if r.source.Cursor != nil {
		return swift.Batch{}, errors.New("no more after " + *r.source.Cursor)
	}
	rows := []swift.Rows{swift.Row(`{"n":` + strconv.Itoa(limit) + `}`), swift.ManyRows(`{"a":1}`, `{"b":2}`), swift.Drop("no use")}
	return swift.Batch{Rows: rows, Cursor: "né", Last: or(r.source.Subset) == "last"}, nil
}

func build(_ *swift.Graph, config *swift.Config) error {
	config.RefuseAllBut("sliding_window")
	rope := swift.RopeOf(config, config.Size("width"))
	return config.Refuse("width", strconv.Itoa(rope.Dims)+" "+real(rope.Theta)+" "+strconv.Itoa(len(rope.Options)))
}

func score(_ struct{}, sample *swift.Sample, _ *swift.State) swift.Outcome {
	switch sample.Completion {
	case "asks":
		answer, err := swift.Send(swift.PostRequest(*sample.Solution, `{"text":"é"}`))
		if err != nil {
			return swift.Fail(err.Error())
		}
		body, _ := swift.Parse(answer.Text())
		got, _ := body.Get("score").Number()
		return swift.Score(float64(answer.Status) + got + number(answer.Header("Content-Length")))
	case "reads":
		bytes, err := swift.ReadFile(*sample.Solution)
		if err != nil {
			return swift.Fail(err.Error())
		}
		return swift.Score(float64(len(bytes)))
	default:
		text := ""
		entries, err := swift.Entries(*sample.Solution)
		for _, entry := range entries {
			text += entry.Name + " " + strconv.FormatBool(entry.IsFolder) + " " + strconv.FormatUint(entry.Size, 10) + ";"
		}
		if err != nil {
			text = err.Error()
		}
		return swift.Fail(text)
	}
}

// number is a number that stands in a text.
func number(text string) float64 {
	value, _ := strconv.ParseFloat(text, 64)
	return value
}

func init() {
	swift.AddReward(swift.Reward[struct{}]{Name: "probe", Summary: "Asks", Score: score})
	swift.AddFamily(swift.Family{ModelTypes: []string{"probe"}, Architectures: []string{"ProbeModel"}, Build: build})
	swift.AddLoader(swift.Loader{Name: "probe", Summary: "Says back", Endings: []string{".a", ".b"}, Open: open})
	swift.AddTemplate(swift.Template[probe]{
		Name:    "probe",
		Summary: "Says back",
		Claims:  claims,
		Configure: func(settings *swift.Settings) (probe, error) {
			return probe{settings.Text("bos_token", "none")}, nil
		},
		Render: probe.render,
		Stops:  func(probe) []string { return []string{"<end>", "é"} },
		Parse:  probe.parse,
		Parser: func(_ probe, context *swift.Context) swift.Parser { return parser{context.Prefix} },
	})
}

func main() {}
