// A chat template: ChatML with reasoning in <think> and tool calls as Hermes writes them.
//
// What is special becomes one token; what is text never does, whatever it looks like.
package main

import (
	"strings"

	"swift"
)

type chatML struct{}

// render gives header, text and end of each message; only what the assistant says is trained.
func (chatML) render(conversation *swift.Conversation, form swift.Form) ([]swift.Segment, error) {
	var segments []swift.Segment
	messages, tools := conversation.Messages, toolText(conversation.Tools)
	if tools != "" && (len(messages) == 0 || messages[0].Role != "system") {
		segments = append(segments, block(swift.NoMessage, "system", tools, 0)...)
	}
	for index := range messages {
		message := &messages[index]
		text, err := message.Text()
		if err != nil {
			return nil, err
		}
		role := message.Role
		switch {
		case role == "assistant":
			text = answer(message, text)
		case role == "tool":
			role, text = "user", "<tool_response>\n"+text+"\n</tool_response>"
		case role == "system" && index == 0 && tools != "":
			text += "\n\n" + tools
		}
		segments = append(segments, block(index, role, text, message.Weight())...)
	}
	if form == swift.PromptForm {
		segments = append(segments,
			swift.SpecialSegment("<|im_start|>", 0, swift.NoMessage), swift.TextSegment("assistant\n", 0, swift.NoMessage))
		if thinking, given := conversation.Arguments.Get("enable_thinking").Bool(); given && !thinking {
			segments = append(segments, swift.TextSegment("<think>\n\n</think>\n\n", 0, swift.NoMessage))
		}
	}
	return segments, nil
}

// block is one message.
func block(message int, role, text string, weight float32) []swift.Segment {
	return []swift.Segment{
		swift.SpecialSegment("<|im_start|>", 0, message),
		swift.TextSegment(role+"\n", 0, message),
		swift.TextSegment(text, weight, message),
		swift.SpecialSegment("<|im_end|>", weight, message),
		swift.TextSegment("\n", 0, message),
	}
}

// answer is what the assistant says: parse is the inverse.
func answer(message *swift.ChatMessage, text string) string {
	var parts []string
	if text != "" {
		parts = append(parts, text)
	}
	for _, call := range message.ToolCalls {
		json := `{"name": ` + swift.Quote(call.Name) + `, "arguments": ` + call.Arguments + `}`
		parts = append(parts, "<tool_call>\n"+json+"\n</tool_call>")
	}
	text = strings.Join(parts, "\n")
	if message.Reasoning != nil && *message.Reasoning != "" {
		text = "<think>\n" + *message.Reasoning + "\n</think>\n\n" + text
	}
	return text
}

// stops are what ends an answer.
func (chatML) stops() []string { return []string{"<|im_end|>"} }

// parse reads reasoning first, then text and tool calls. Nothing of the text is lost.
func (chatML) parse(completion string, context *swift.Context) (parsed swift.Parsed) {
	rest := context.Prefix + completion
	if inside, thinks := strings.CutPrefix(rest, "<think>"); thinks {
		reasoning, after, ends := strings.Cut(inside, "</think>")
		if !ends {
			parsed.Problems = append(parsed.Problems, "the reasoning does not end")
		}
		if reasoning = strings.Trim(reasoning, "\n"); reasoning != "" {
			parsed.Reasoning = &reasoning
		}
		rest = strings.TrimLeft(after, "\n")
	}
	for {
		before, from, found := strings.Cut(rest, "<tool_call>")
		if !found {
			break
		}
		inside, after, ends := strings.Cut(from, "</tool_call>")
		if !ends {
			parsed.Problems = append(parsed.Problems, "a tool call does not end")
			break
		}
		if call, ok := toolCall(inside); ok {
			parsed.Content += strings.TrimSuffix(before, "\n")
			parsed.ToolCalls = append(parsed.ToolCalls, call)
		} else {
			parsed.Content += rest[:len(rest)-len(after)]
			parsed.Problems = append(parsed.Problems, "a tool call is not a JSON object with name and arguments")
		}
		rest = after
	}
	parsed.Content += rest
	return parsed
}

func toolCall(text string) (swift.ToolCall, bool) {
	call, err := swift.Parse(text)
	name, named := call.Get("name").Text()
	arguments := call.Get("arguments")
	if err != nil || !named || arguments == nil || arguments.Kind != swift.Object {
		return swift.ToolCall{}, false
	}
	return swift.ToolCall{Name: name, Arguments: arguments.Source}, true
}

// toolText is what the system says about the tools; nothing without any.
func toolText(tools []string) string {
	if len(tools) == 0 {
		return ""
	}
	return `# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
` + strings.Join(tools, "\n") + `
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>`
}

func init() {
	swift.AddTemplate(swift.Template[chatML]{
		Name:    "chatml",
		Summary: "ChatML with reasoning and tool calls",
		Render:  chatML.render,
		Stops:   chatML.stops,
		Parse:   chatML.parse,
	})
}

func main() {}
