/* swift-template.h: chat templates. Include it beside swift.h, and name the template with SWIFT_TEMPLATE. */
#ifndef SWIFT_TEMPLATE_H
#define SWIFT_TEMPLATE_H

#include "swift.h"

/* What a template is asked for. */
typedef enum swift_form {
    SWIFT_PROMPT_FORM,  /* all messages, and the opening of an answer: what a model is asked to continue */
    SWIFT_TRAINING_FORM /* all messages, the last one being the assistant's, to its end */
} swift_form;

typedef enum swift_part_type { SWIFT_PART_TEXT, SWIFT_PART_IMAGE, SWIFT_PART_AUDIO, SWIFT_PART_VIDEO } swift_part_type;

/* A piece of a message: `type` is a swift_part_type; the value of a medium is its reference. */
typedef struct swift_part {
    uint8_t type;
    swift_text value;
} swift_part;

/* A call of a tool by the assistant. */
typedef struct swift_tool_call {
    swift_optional_text id;
    swift_text name;
    swift_text arguments; /* JSON, as the row has it */
} swift_tool_call;

typedef struct swift_chat_message {
    swift_text role; /* system, developer, user, assistant, tool */
    struct {
        const swift_part *items;
        size_t count;
    } content;
    swift_optional_text reasoning; /* what the assistant thought before it answered */
    struct {
        const swift_tool_call *items;
        size_t count;
    } tool_calls;
    swift_optional_text tool_call_id; /* in a tool's result: the call it answers, and the tool */
    swift_optional_text name;
    struct {
        bool given;
        bool value;
    } loss; /* whether to train on this message, where the row says so */
    struct {
        bool given;
        float value;
    } loss_scale; /* the weight of its loss, where the row says so */
} swift_chat_message;

typedef struct swift_texts {
    const swift_text *items;
    size_t count;
} swift_texts;

typedef struct swift_conversation {
    struct {
        const swift_chat_message *items;
        size_t count;
    } messages;
    swift_texts tools;       /* definitions, each a JSON object in OpenAI's form */
    swift_columns arguments; /* template arguments such as enable_thinking; unknown ones are ignored */
    swift_optional_text date; /* the run's date as YYYY-MM-DD, for templates that write one */
} swift_conversation;

/* The text of a message; an error where there is an image, audio or video in it. */
swift_error swift_message_text(const swift_chat_message *message, swift_text *text);
/* The weight of the loss of what is said in a message: 1 for the assistant and 0 for every other role, unless the row says
 * otherwise. */
float swift_message_weight(const swift_chat_message *message);

/* What was rendered so far. `message` is the index of the message that a segment renders, or SWIFT_NO_MESSAGE. */
typedef struct swift_segments swift_segments;
#define SWIFT_NO_MESSAGE (-1)
/* Tokenised as text: what looks like a special token in it is not one. */
void swift_text_segment(swift_segments *segments, swift_text text, float weight, int message);
/* One special token of the tokenizer, by its text. */
void swift_special_segment(swift_segments *segments, const char *token, float weight, int message);

/* What a completion continues. */
typedef struct swift_context {
    swift_texts tools;
    swift_columns arguments;
    swift_text prefix; /* the end of the prompt that is already the assistant's ("<think>\n"), or "" */
} swift_context;

/* A completion, read back. Fill `content` and `reasoning`, and add calls and problems with the functions below. */
typedef struct swift_parsed {
    swift_text content;
    swift_optional_text reasoning;
    struct {
        swift_tool_call *items;
        size_t count;
    } tool_calls;
    struct {
        swift_text *items;
        size_t count;
    } problems; /* why it is not whole; nothing of the text is lost */
} swift_parsed;
void swift_parsed_call(swift_parsed *parsed, swift_tool_call call);
void swift_parsed_problem(swift_parsed *parsed, const char *problem);

/* A chat template. It must be pure: nothing of what was rendered before may show. */
typedef struct swift_template {
    const char *name;    /* lower case, digits, `_` and `-` */
    const char *summary; /* one line */
    /* Whether this is the template of a checkpoint, by its config.json and its tokenizer_config.json with the chat_template in
     * it; what cannot be read is NULL. Optional: without it the template is chosen by name alone. */
    bool (*claims)(const swift_json *config, const swift_json *tokenizer_config);
    /* Reads the tokenizer's special tokens (bos_token, ...), which need not be read, and the user's settings. Optional. */
    void *(*configure)(swift_settings *settings);
    /* Gives segments whose joined texts are what the checkpoint's own template gives. An error is that of this conversation
     * alone. */
    swift_error (*render)(const void *self, const swift_conversation *conversation, swift_form form, swift_segments *segments);
    /* Texts that end an answer, ending in NULL. */
    const char *const *stops;
    /* Reads a completion back, its stop text already removed: the inverse of rendering an assistant's message. While a
     * completion comes it is kept, and this is asked at its end. */
    void (*parse)(const void *self, swift_text completion, const swift_context *context, swift_parsed *parsed);
    struct swift_template *next; /* the SDK's */
} swift_template;

/* SWIFT_TEMPLATE(.name = "chatml", .summary = "...", .render = render, .stops = stops, .parse = parse); */
#define SWIFT_TEMPLATE(...) SWIFT_REGISTER(template, __VA_ARGS__)
void swift_add_template(swift_template *template);

#endif
