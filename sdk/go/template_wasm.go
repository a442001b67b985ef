//go:build swift_template

package swift

import "unsafe"

// The export of templates. The layouts are those of the contract's records.

type partLayout struct {
	what    uint8
	payload span
}

type toolCallLayout struct {
	id              optionalText
	name, arguments span
}

type messageInChatLayout struct {
	role, content    span
	reasoning        optionalText
	toolCalls        span
	toolCallID, name optionalText
	loss             struct{ given, value uint8 }
	lossScale        struct {
		given uint8
		value float32
	}
}

type conversationLayout struct {
	messages, tools, arguments span
	date                       optionalText
}

type segmentLayout struct {
	content partLayout
	weight  float32
	message struct {
		given uint8
		index uint32
	}
}

type parsedLayout struct {
	content             span
	reasoning           optionalText
	toolCalls, problems span
}

// eventLayout has room for the largest case, the start of a tool call.
type eventLayout struct {
	what uint8
	body struct {
		first [3]uint32
		name  span
	}
}

var (
	rendering *runningTemplate
	parsers   = held[Parser]{}
)

//go:wasmimport [export]swift:template/templates@0.1.0 [resource-new]parser
func newParser(number uint32) uint32

//go:wasmexport swift:template/templates@0.1.0#templates
func exportTemplates() uint32 {
	defer guard()
	begin()
	var infos [][2]span
	for _, template := range templates {
		infos = append(infos, [2]span{sendText(template.name), sendText(template.summary)})
	}
	listed = sendItems(infos)
	return address(unsafe.Pointer(&listed))
}

//go:wasmexport swift:template/templates@0.1.0#claims
func exportTemplateClaims(config, configLength, tokenizer, tokenizerLength uint32) uint32 {
	defer guard()
	begin()
	name, ok := claimant(span{config, configLength}.text(), span{tokenizer, tokenizerLength}.text())
	arguments = nil
	if ok {
		return replyOptional(&name)
	}
	return replyOptional(nil)
}

//go:wasmexport swift:template/templates@0.1.0#configure
func exportTemplateConfigure(name, nameLength, config, configLength uint32) uint32 {
	defer guard()
	begin()
	infoOf := func(template *template) info { return template.info }
	chosen, settings, err := choose("template", templates, infoOf, span{name, nameLength}, span{config, configLength})
	if err == nil {
		rendering, err = chosen.configure(settings)
	}
	return reply(span{}, err)
}

// configuredTemplate is the template that was chosen; none is an error of the host.
func configuredTemplate() *runningTemplate {
	begin()
	if rendering == nil {
		panic("a template was used before `configure`")
	}
	return rendering
}

//go:wasmexport swift:template/templates@0.1.0#render
func exportTemplateRender(conversations, count, form uint32) uint32 {
	defer guard()
	template := configuredTemplate()
	list := make([]Conversation, 0, count)
	for _, one := range items[conversationLayout](span{conversations, count}) {
		list = append(list, one.conversation())
	}
	arguments = nil
	layouts := make([]result, 0, len(list))
	for i := range list {
		segments, err := template.render(&list[i], Form(form))
		if err != nil {
			layouts = append(layouts, result{1, sendText(err.Error())})
		} else {
			layouts = append(layouts, result{0, sendSegments(segments)})
		}
	}
	listed = sendItems(layouts)
	return address(unsafe.Pointer(&listed))
}

func (c *conversationLayout) conversation() Conversation {
	messages := make([]ChatMessage, 0, c.messages.length)
	for _, one := range items[messageInChatLayout](c.messages) {
		message := ChatMessage{
			Role: one.role.text(), Reasoning: one.reasoning.text(), ToolCallID: one.toolCallID.text(), Name: one.name.text(),
		}
		for _, part := range items[partLayout](one.content) {
			content := TextContent
			if part.what > 0 {
				content = Content(part.what) + 1 // a part is no special token
			}
			message.Content = append(message.Content, Part{content, part.payload.text()})
		}
		for _, call := range items[toolCallLayout](one.toolCalls) {
			message.ToolCalls = append(message.ToolCalls, ToolCall{call.id.text(), call.name.text(), call.arguments.text()})
		}
		if one.loss.given != 0 {
			loss := one.loss.value != 0
			message.Loss = &loss
		}
		if one.lossScale.given != 0 {
			scale := one.lossScale.value
			message.LossScale = &scale
		}
		messages = append(messages, message)
	}
	return Conversation{messages, texts(c.tools), columns(c.arguments), c.date.text()}
}

func sendSegments(segments []Segment) span {
	layouts := make([]segmentLayout, len(segments))
	for i, segment := range segments {
		layouts[i].content = partLayout{uint8(segment.Content), sendText(segment.Value)}
		layouts[i].weight = segment.Weight
		if segment.Message >= 0 {
			layouts[i].message.given, layouts[i].message.index = 1, uint32(segment.Message)
		}
	}
	return sendItems(layouts)
}

//go:wasmexport swift:template/templates@0.1.0#stops
func exportTemplateStops() uint32 {
	defer guard()
	listed = sendTexts(configuredTemplate().stops())
	return address(unsafe.Pointer(&listed))
}

//go:wasmexport swift:template/templates@0.1.0#parse
func exportTemplateParse(completions, count, tools, toolCount, given, givenCount, prefix, prefixLength uint32) uint32 {
	defer guard()
	template := configuredTemplate()
	list := texts(span{completions, count})
	context := Context{texts(span{tools, toolCount}), columns(span{given, givenCount}), span{prefix, prefixLength}.text()}
	arguments = nil
	layouts := make([]parsedLayout, 0, len(list))
	for _, completion := range list {
		parsed := template.parse(completion, &context)
		var calls []toolCallLayout
		for _, call := range parsed.ToolCalls {
			calls = append(calls, toolCallLayout{sendOptional(call.ID), sendText(call.Name), sendText(call.Arguments)})
		}
		layouts = append(layouts, parsedLayout{
			sendText(parsed.Content), sendOptional(parsed.Reasoning), sendItems(calls), sendTexts(parsed.Problems),
		})
	}
	listed = sendItems(layouts)
	return address(unsafe.Pointer(&listed))
}

//go:wasmexport swift:template/templates@0.1.0#[constructor]parser
func exportNewParser(tools, toolCount, given, givenCount, prefix, prefixLength uint32) uint32 {
	defer guard()
	template := configuredTemplate()
	context := Context{texts(span{tools, toolCount}), columns(span{given, givenCount}), span{prefix, prefixLength}.text()}
	arguments = nil
	return newParser(parsers.hold(template.parser(&context)))
}

//go:wasmexport swift:template/templates@0.1.0#[method]parser.push
func exportParserPush(parser, text, length uint32) uint32 {
	defer guard()
	begin()
	piece := span{text, length}.text()
	arguments = nil
	return sendEvents(parsers[parser].Push(piece))
}

//go:wasmexport swift:template/templates@0.1.0#[method]parser.finish
func exportParserFinish(parser uint32) uint32 {
	defer guard()
	begin()
	return sendEvents(parsers[parser].Finish())
}

//go:wasmexport swift:template/templates@0.1.0#[dtor]parser
func exportParserDrop(parser uint32) { delete(parsers, parser) }

func sendEvents(events []Event) uint32 {
	layouts := make([]eventLayout, len(events))
	for i, event := range events {
		text := sendText(event.text)
		layouts[i].what = event.what
		if event.what == 2 {
			id := sendOptional(event.id)
			layouts[i].body.first = [3]uint32{uint32(id.given), id.payload.data, id.payload.length}
			layouts[i].body.name = text
		} else {
			layouts[i].body.first = [3]uint32{text.data, text.length}
		}
	}
	listed = sendItems(layouts)
	return address(unsafe.Pointer(&listed))
}
