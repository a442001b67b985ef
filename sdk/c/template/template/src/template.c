/* A chat template: ChatML with reasoning in <think> and tool calls as Hermes writes them.
 *
 * What is special becomes one token; what is text never does, whatever it looks like. */
#include <string.h>

#include "swift.h"
#include "swift-template.h"

static const char TOOLS_BEFORE[] =
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n";
static const char TOOLS_AFTER[] =
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> "
    "XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>";

/* What the system says about the tools; nothing without any. */
static swift_text tool_text(swift_texts tools) {
    swift_text text = swift_text_of(tools.count ? TOOLS_BEFORE : "");
    for (size_t i = 0; i < tools.count; i++) {
        text = SWIFT_JOIN(text, swift_text_of(i ? "\n" : ""), tools.items[i]);
    }
    return tools.count ? SWIFT_JOIN(text, swift_text_of(TOOLS_AFTER)) : text;
}

/* What the assistant says: `parse` is the inverse. */
static swift_text answer(const swift_chat_message *message, swift_text text) {
    for (size_t i = 0; i < message->tool_calls.count; i++) {
        const swift_tool_call *call = &message->tool_calls.items[i];
        text = SWIFT_JOIN(text, swift_text_of(text.length ? "\n" : ""), SWIFT_TEXT("<tool_call>\n{\"name\": "),
                          swift_json_quote(call->name), SWIFT_TEXT(", \"arguments\": "), call->arguments,
                          SWIFT_TEXT("}\n</tool_call>"));
    }
    if (message->reasoning.given && message->reasoning.text.length) {
        text = SWIFT_JOIN(SWIFT_TEXT("<think>\n"), message->reasoning.text, SWIFT_TEXT("\n</think>\n\n"), text);
    }
    return text;
}

/* One message: header, text and end. Only what the assistant says is trained. */
static void block(swift_segments *segments, int message, swift_text role, swift_text text, float weight) {
    swift_special_segment(segments, "<|im_start|>", 0, message);
    swift_text_segment(segments, SWIFT_JOIN(role, SWIFT_TEXT("\n")), 0, message);
    swift_text_segment(segments, text, weight, message);
    swift_special_segment(segments, "<|im_end|>", weight, message);
    swift_text_segment(segments, SWIFT_TEXT("\n"), 0, message);
}

static swift_error render(const void *self, const swift_conversation *conversation, swift_form form, swift_segments *segments) {
    (void)self;
    const swift_chat_message *messages = conversation->messages.items;
    swift_text tools = tool_text(conversation->tools), system = SWIFT_TEXT("system");
    if (tools.length && (conversation->messages.count == 0 || !swift_equal(messages[0].role, system))) {
        block(segments, SWIFT_NO_MESSAGE, system, tools, 0);
    }
    for (size_t i = 0; i < conversation->messages.count; i++) {
        swift_text text, role = messages[i].role;
        swift_error error = swift_message_text(&messages[i], &text);
        if (error) return error;
        if (swift_equal(role, SWIFT_TEXT("assistant"))) {
            text = answer(&messages[i], text);
        } else if (swift_equal(role, SWIFT_TEXT("tool"))) {
            role = SWIFT_TEXT("user");
            text = SWIFT_JOIN(SWIFT_TEXT("<tool_response>\n"), text, SWIFT_TEXT("\n</tool_response>"));
        } else if (i == 0 && tools.length && swift_equal(role, system)) {
            text = SWIFT_JOIN(text, SWIFT_TEXT("\n\n"), tools);
        }
        block(segments, (int)i, role, text, swift_message_weight(&messages[i]));
    }
    if (form == SWIFT_PROMPT_FORM) {
        bool thinking = true;
        swift_json_bool(swift_column_get(conversation->arguments, "enable_thinking"), &thinking);
        swift_special_segment(segments, "<|im_start|>", 0, SWIFT_NO_MESSAGE);
        swift_text_segment(segments, SWIFT_TEXT("assistant\n"), 0, SWIFT_NO_MESSAGE);
        if (!thinking) swift_text_segment(segments, SWIFT_TEXT("<think>\n\n</think>\n\n"), 0, SWIFT_NO_MESSAGE);
    }
    return SWIFT_OK;
}

static const char *const stops[] = {"<|im_end|>", NULL};

/* Cuts `text` at the first `mark`; false when there is none. */
static bool cut(swift_text text, const char *mark, swift_text *before, swift_text *after) {
    size_t length = strlen(mark);
    for (size_t at = 0; at + length <= text.length; at++) {
        if (memcmp(text.data + at, mark, length) != 0) continue;
        *before = (swift_text){text.data, at};
        *after = (swift_text){text.data + at + length, text.length - at - length};
        return true;
    }
    return false;
}

static swift_text without_lines(swift_text text) {
    while (text.length && text.data[0] == '\n') text.data++, text.length--;
    return text;
}

static bool tool_call(swift_text text, swift_tool_call *call) {
    const swift_json *value = swift_json_parse(text), *arguments = swift_json_get(value, "arguments");
    if (!swift_json_text(swift_json_get(value, "name"), &call->name)) return false;
    if (!arguments || arguments->type != SWIFT_JSON_OBJECT) return false;
    call->arguments = arguments->source;
    return true;
}

/* Reads reasoning first, then text and tool calls. Nothing of the text is lost. */
static void parse(const void *self, swift_text completion, const swift_context *context, swift_parsed *parsed) {
    (void)self;
    swift_text rest = SWIFT_JOIN(context->prefix, completion), before, inside, after;
    parsed->content = SWIFT_TEXT("");
    if (cut(rest, "<think>", &before, &inside) && before.length == 0) {
        swift_text reasoning = inside;
        rest = SWIFT_TEXT("");
        if (cut(inside, "</think>", &reasoning, &after)) {
            rest = without_lines(after);
        } else {
            swift_parsed_problem(parsed, "the reasoning does not end");
        }
        reasoning = without_lines(reasoning);
        while (reasoning.length && reasoning.data[reasoning.length - 1] == '\n') reasoning.length--;
        if (reasoning.length) parsed->reasoning = (swift_optional_text){true, reasoning};
    }
    while (cut(rest, "<tool_call>", &before, &inside)) {
        swift_tool_call call = {0};
        if (!cut(inside, "</tool_call>", &inside, &after)) {
            swift_parsed_problem(parsed, "a tool call does not end");
            break;
        }
        if (tool_call(inside, &call)) {
            if (before.length && before.data[before.length - 1] == '\n') before.length--;
            parsed->content = SWIFT_JOIN(parsed->content, before);
            swift_parsed_call(parsed, call);
        } else {
            parsed->content = SWIFT_JOIN(parsed->content, (swift_text){rest.data, rest.length - after.length});
            swift_parsed_problem(parsed, "a tool call is not a JSON object with name and arguments");
        }
        rest = after;
    }
    parsed->content = SWIFT_JOIN(parsed->content, rest);
}

SWIFT_TEMPLATE(.name = "chatml", .summary = "ChatML with reasoning and tool calls", .render = render, .stops = stops, .parse = parse);
