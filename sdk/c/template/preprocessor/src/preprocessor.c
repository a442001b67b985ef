/* A row preprocessor: rows with instruction, input and output to messages. */
#include "swift.h"

static swift_text message(const char *role, swift_text content) {
    return SWIFT_JOIN(SWIFT_TEXT("{\"role\":"), swift_json_quote(swift_text_of(role)), SWIFT_TEXT(",\"content\":"),
                      swift_json_quote(content), SWIFT_TEXT("}"));
}

static swift_rows process(const void *self, const swift_json *row) {
    (void)self;
    swift_text question = {0}, input = {0}, answer = {0};
    if (!swift_json_text(swift_json_get(row, "instruction"), &question)) return swift_drop(SWIFT_TEXT("no instruction"));
    swift_json_text(swift_json_get(row, "input"), &input);
    swift_json_text(swift_json_get(row, "output"), &answer);
    if (answer.length == 0) return swift_drop(SWIFT_TEXT("no answer"));
    if (input.length > 0) question = SWIFT_JOIN(question, SWIFT_TEXT("\n"), input);
    return swift_row(SWIFT_JOIN(SWIFT_TEXT("{\"messages\":["), message("user", question), SWIFT_TEXT(","),
                                message("assistant", answer), SWIFT_TEXT("]}")));
}

SWIFT_PREPROCESSOR(.name = "alpaca", .summary = "Rows with instruction, input and output to messages", .process = process);
