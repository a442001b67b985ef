/* A metric: how many predictions equal a reference. */
#include "swift.h"

typedef struct exact_match {
    int64_t right, count;
} exact_match;

static void *configure(swift_settings *settings) {
    (void)settings;
    return swift_alloc(1, sizeof(exact_match));
}

static bool right(const swift_example *example) {
    if (example->prediction.type != SWIFT_ANSWER_TEXT) return false;
    swift_text said = swift_trim(example->prediction.text);
    for (size_t i = 0; i < example->references.count; i++) {
        const swift_answer *reference = &example->references.items[i];
        if (reference->type == SWIFT_ANSWER_TEXT && swift_equal(said, swift_trim(reference->text))) return true;
    }
    return false;
}

static swift_error update(void *data, const swift_example *examples, size_t count) {
    exact_match *self = data;
    for (size_t i = 0; i < count; i++) self->right += right(&examples[i]);
    self->count += (int64_t)count;
    return SWIFT_OK;
}

static swift_text state(const void *data) {
    const exact_match *self = data;
    return SWIFT_JOIN(SWIFT_TEXT("{\"right\":"), swift_integer(self->right), SWIFT_TEXT(",\"count\":"),
                      swift_integer(self->count), SWIFT_TEXT("}"));
}

static swift_error merge(void *data, swift_text state) {
    exact_match *self = data;
    const swift_json *other = swift_json_parse(state);
    int64_t right, count;
    if (!swift_json_integer(swift_json_get(other, "right"), &right) || !swift_json_integer(swift_json_get(other, "count"), &count)) {
        return "the state is not one of this metric";
    }
    self->right += right;
    self->count += count;
    return SWIFT_OK;
}

static swift_error compute(const void *data, swift_numbers *numbers) {
    const exact_match *self = data;
    if (self->count > 0) swift_number(numbers, "exact_match", (double)self->right / (double)self->count);
    return SWIFT_OK;
}

SWIFT_METRIC(.name = "exact_match", .summary = "Share of predictions that equal a reference",
             .higher_is_better = true, .configure = configure, .update = update, .state = state, .merge = merge,
             .compute = compute);
