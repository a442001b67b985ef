/* The contract `swift:template`, for the templates that were named with SWIFT_TEMPLATE. */
#include "internal.h"

#include "../swift-template.h"

#include <string.h>

_Static_assert(sizeof(swift_part) == 12 && sizeof(swift_tool_call) == 28, "part and tool call");
_Static_assert(sizeof(swift_chat_message) == 72 && offsetof(swift_chat_message, loss_scale) == 64, "message");
_Static_assert(sizeof(swift_conversation) == 36 && offsetof(swift_conversation, date) == 24, "conversation");
_Static_assert(sizeof(swift_parsed) == 36 && offsetof(swift_parsed, tool_calls) == 20, "parsed");

typedef struct info {
    swift_text name, summary;
} info;

enum { TEXT, SPECIAL };

typedef struct segment {
    uint8_t content;
    swift_text value;
    float weight;
    bool has_message;
    uint32_t message;
} segment;
_Static_assert(sizeof(segment) == 24 && offsetof(segment, message) == 20, "segment");

struct swift_segments {
    segment *items;
    size_t count, room;
};

enum { EVENT_REASONING, EVENT_TEXT, EVENT_TOOL_CALL, EVENT_ARGUMENTS, EVENT_PROBLEM };

typedef struct event {
    uint8_t what;
    union {
        swift_text text;
        struct {
            swift_optional_text id;
            swift_text name;
        } call;
    };
} event;
_Static_assert(sizeof(event) == 24 && offsetof(event, text) == 4, "event");

static swift_template *first, **end = &first;
static size_t count;
static const swift_template *chosen;
static void *self;

void swift_add_template(swift_template *template) {
    *end = template;
    end = &template->next;
    count++;
}

/* -- What authors call ---------------------------------------------------------------------------------------------- */

swift_error swift_message_text(const swift_chat_message *message, swift_text *text) {
    *text = (swift_text){"", 0};
    for (size_t i = 0; i < message->content.count; i++) {
        const swift_part *part = &message->content.items[i];
        if (part->type != SWIFT_PART_TEXT) return "this template has no place for images, audio or video";
        *text = text->length == 0 ? part->value : SWIFT_JOIN(*text, part->value);
    }
    return SWIFT_OK;
}

float swift_message_weight(const swift_chat_message *message) {
    if (message->loss.given && !message->loss.value) return 0;
    if (message->loss_scale.given) return message->loss_scale.value;
    return message->loss.given || swift_equal(message->role, SWIFT_TEXT("assistant"));
}

static void add(swift_segments *segments, segment one) {
    if (segments->count == segments->room) {
        size_t room = segments->room ? segments->room * 2 : 32;
        segment *items = swift_alloc(room, sizeof *items);
        if (segments->count) memcpy(items, segments->items, segments->count * sizeof *items);
        segments->items = items;
        segments->room = room;
    }
    segments->items[segments->count++] = one;
}

void swift_text_segment(swift_segments *segments, swift_text text, float weight, int message) {
    add(segments, (segment){TEXT, text, weight, message >= 0, message >= 0 ? (uint32_t)message : 0});
}

void swift_special_segment(swift_segments *segments, const char *token, float weight, int message) {
    add(segments, (segment){SPECIAL, swift_text_of(token), weight, message >= 0, message >= 0 ? (uint32_t)message : 0});
}

/* A list with one item more. There are few of them. */
static void *grown(const void *items, size_t length, size_t size, const void *item) {
    char *copy = swift_alloc(length + 1, size);
    if (length) memcpy(copy, items, length * size);
    memcpy(copy + length * size, item, size);
    return copy;
}

void swift_parsed_call(swift_parsed *parsed, swift_tool_call call) {
    parsed->tool_calls.items = grown(parsed->tool_calls.items, parsed->tool_calls.count, sizeof call, &call);
    parsed->tool_calls.count++;
}

void swift_parsed_problem(swift_parsed *parsed, const char *problem) {
    swift_text text = swift_text_of(problem);
    parsed->problems.items = grown(parsed->problems.items, parsed->problems.count, sizeof text, &text);
    parsed->problems.count++;
}

/* -- What the host calls -------------------------------------------------------------------------------------------- */

static void needs_configure(void) {
    if (!chosen) SWIFT_PANIC(SWIFT_TEXT("a template was used before `configure`"));
}

SWIFT_EXPORT("swift:template/templates@0.1.0#templates")
const swift_list *swift_export_templates(void) {
    static swift_list list;
    info *infos = swift_alloc(count, sizeof *infos), *next = infos;
    for (const swift_template *one = first; one; one = one->next) {
        *next++ = (info){swift_text_of(one->name), swift_text_of(one->summary)};
    }
    list = (swift_list){infos, count};
    return &list;
}

SWIFT_EXPORT("swift:template/templates@0.1.0#claims")
const swift_optional_text *swift_export_template_claims(const char *config, size_t config_length, const char *tokenizer,
                                                        size_t tokenizer_length) {
    static swift_optional_text answer;
    answer = (swift_optional_text){0};
    for (const swift_template *one = first; one && !answer.given; one = one->next) {
        if (!one->claims) continue;
        const swift_json *about_model = swift_json_parse((swift_text){config, config_length});
        const swift_json *about_tokenizer = swift_json_parse((swift_text){tokenizer, tokenizer_length});
        if (one->claims(about_model, about_tokenizer)) answer = (swift_optional_text){true, swift_text_of(one->name)};
    }
    return &answer;
}

SWIFT_EXPORT("swift:template/templates@0.1.0#configure")
const swift_result *swift_export_template_configure(const char *name, size_t name_length, const char *config, size_t config_length) {
    swift_text wanted = {name, name_length};
    const char **names = swift_alloc(count, sizeof *names);
    size_t known = 0;
    for (const swift_template *one = first; one; one = one->next) {
        names[known++] = one->name;
        if (!swift_equal(swift_text_of(one->name), wanted)) continue;
        if (!one->render || !one->stops || !one->parse) {
            return swift_failed(SWIFT_JOIN(SWIFT_TEXT("the template `"), wanted, SWIFT_TEXT("` needs `.render`, `.stops` and `.parse`")));
        }
        chosen = one;
        const swift_result *failed = swift_configure_template(one->configure, (swift_text){config, config_length}, &self);
        return failed ? failed : swift_ok(NULL, 0);
    }
    return swift_unknown("template", wanted, names, known);
}

SWIFT_EXPORT("swift:template/templates@0.1.0#render")
const swift_list *swift_export_template_render(const swift_conversation *conversations, size_t length, uint32_t form) {
    static swift_list list;
    needs_configure();
    swift_result *results = swift_alloc(length, sizeof *results);
    for (size_t i = 0; i < length; i++) {
        swift_segments segments = {0};
        swift_error error = chosen->render(self, &conversations[i], (swift_form)form, &segments);
        swift_text reason = swift_text_of(error);
        results[i] = error ? (swift_result){1, {reason.data, reason.length}} : (swift_result){0, {segments.items, segments.count}};
    }
    list = (swift_list){results, length};
    return &list;
}

SWIFT_EXPORT("swift:template/templates@0.1.0#stops")
const swift_list *swift_export_template_stops(void) {
    static swift_list list;
    needs_configure();
    size_t length = 0;
    while (chosen->stops[length]) length++;
    swift_text *texts = swift_alloc(length, sizeof *texts);
    for (size_t i = 0; i < length; i++) texts[i] = swift_text_of(chosen->stops[i]);
    list = (swift_list){texts, length};
    return &list;
}

SWIFT_EXPORT("swift:template/templates@0.1.0#parse")
const swift_list *swift_export_template_parse(const swift_text *completions, size_t length, const swift_text *tools, size_t tool_count,
                                              const swift_column *arguments, size_t argument_count, const char *prefix,
                                              size_t prefix_length) {
    static swift_list list;
    needs_configure();
    swift_context context = {{tools, tool_count}, {arguments, argument_count}, {prefix, prefix_length}};
    swift_parsed *parsed = swift_alloc(length, sizeof *parsed);
    for (size_t i = 0; i < length; i++) chosen->parse(self, completions[i], &context, &parsed[i]);
    list = (swift_list){parsed, length};
    return &list;
}

/* A completion that comes piece by piece: it is kept, and read back at its end. */
typedef struct parser {
    swift_context context;
    swift_text text;
    size_t room;
} parser;

__attribute__((import_module("[export]swift:template/templates@0.1.0"), import_name("[resource-new]parser")))
int32_t swift_host_new_parser(parser *parser);

SWIFT_EXPORT("swift:template/templates@0.1.0#[constructor]parser")
int32_t swift_export_new_parser(const swift_text *tools, size_t tool_count, const swift_column *arguments, size_t argument_count,
                                const char *prefix, size_t prefix_length) {
    needs_configure();
    parser *made = swift_alloc(1, sizeof *made);
    made->context = (swift_context){{tools, tool_count}, {arguments, argument_count}, {prefix, prefix_length}};
    return swift_host_new_parser(made);
}

SWIFT_EXPORT("swift:template/templates@0.1.0#[method]parser.push")
const swift_list *swift_export_parser_push(parser *parser, const char *text, size_t length) {
    static swift_list none;
    size_t needed = parser->text.length + length;
    if (needed > parser->room) {
        size_t room = needed * 2;
        char *copy = swift_alloc(room, 1);
        if (parser->text.length) memcpy(copy, parser->text.data, parser->text.length);
        free((void *)parser->text.data);
        parser->text.data = copy;
        parser->room = room;
    }
    if (length) memcpy((char *)parser->text.data + parser->text.length, text, length);
    parser->text.length = needed;
    free((void *)text);
    return &none;
}

SWIFT_EXPORT("swift:template/templates@0.1.0#[method]parser.finish")
const swift_list *swift_export_parser_finish(parser *parser) {
    static swift_list list;
    swift_parsed parsed = {0};
    chosen->parse(self, parser->text, &parser->context, &parsed);
    size_t calls = parsed.tool_calls.count, problems = parsed.problems.count;
    event *events = swift_alloc(2 + 2 * calls + problems, sizeof *events), *next = events;
    if (parsed.reasoning.given) *next++ = (event){EVENT_REASONING, {.text = parsed.reasoning.text}};
    if (parsed.content.length) *next++ = (event){EVENT_TEXT, {.text = parsed.content}};
    for (size_t i = 0; i < calls; i++) {
        const swift_tool_call *call = &parsed.tool_calls.items[i];
        *next++ = (event){EVENT_TOOL_CALL, {.call = {call->id, call->name}}};
        *next++ = (event){EVENT_ARGUMENTS, {.text = call->arguments}};
    }
    for (size_t i = 0; i < problems; i++) *next++ = (event){EVENT_PROBLEM, {.text = parsed.problems.items[i]}};
    list = (swift_list){events, (size_t)(next - events)};
    return &list;
}

SWIFT_EXPORT("swift:template/templates@0.1.0#[dtor]parser")
void swift_export_parser_drop(parser *parser) {
    free((void *)parser->text.data);
    free(parser);
}
