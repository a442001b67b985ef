/* Says back all that it gets, and fails in every way: for the tests of the SDK. */
#include <assert.h>
#include <stdlib.h>

#include "swift.h"

typedef struct probe {
    swift_text mode;
} probe;

static void *configure(swift_settings *settings) {
    probe *self = swift_alloc(1, sizeof *self);
    self->mode = swift_setting_text(settings, "mode", "echo");
    int64_t whole = swift_setting_integer(settings, "whole", 8);
    double number = swift_setting_number(settings, "number", 0.5);
    swift_setting_bool(settings, "flag", false);
    if (whole < 0) return swift_refuse(settings, SWIFT_TEXT("`whole` is negative"));
    if (number > 1) swift_log(SWIFT_WARN, SWIFT_JOIN(SWIFT_TEXT("number is "), swift_real(number)));
    return self;
}

static swift_text render_columns(swift_columns columns) {
    swift_text text = SWIFT_TEXT("");
    for (size_t i = 0; i < columns.count; i++) {
        text = swift_format("%.*s %.*s=%.*s", SWIFT_ARGS(text), SWIFT_ARGS(columns.items[i].name), SWIFT_ARGS(columns.items[i].json));
    }
    return text;
}

static swift_text render(const swift_sample *sample, const swift_state *state) {
    swift_text text = SWIFT_TEXT("");
    for (size_t i = 0; i < sample->prompt.count; i++) {
        const swift_message *message = &sample->prompt.items[i];
        text = swift_format("%.*s%.*s:%.*s ", SWIFT_ARGS(text), SWIFT_ARGS(message->role), SWIFT_ARGS(message->content));
    }
    swift_text solution = sample->solution.given ? sample->solution.text : SWIFT_TEXT("none");
    return swift_format("%.*s/ %.*s / %u / %.*s /%.*s / %llu %llu %s %llu %.*s", SWIFT_ARGS(text), SWIFT_ARGS(sample->completion),
                        (unsigned)sample->completion_tokens, SWIFT_ARGS(solution), SWIFT_ARGS(render_columns(sample->columns)),
                        (unsigned long long)state->step, (unsigned long long)state->max_steps, swift_real(state->epoch).data,
                        (unsigned long long)state->seed, SWIFT_ARGS(state->extra));
}

static int deep(volatile int *above) {
    volatile int here[64] = {above ? above[0] + 1 : 0};
    return deep(here) + here[1];
}

static swift_outcome score(const void *data, const swift_sample *sample, const swift_state *state) {
    const probe *self = data;
    double out;
    if (swift_equal(self->mode, SWIFT_TEXT("echo"))) return swift_fail(render(sample, state));
    if (swift_equal(self->mode, SWIFT_TEXT("column"))) {
        const swift_json *list = swift_column_get(sample->columns, "list");
        if (!list) return swift_no_score();
        return swift_json_number(list->first, &out) ? swift_score(out) : swift_fail(swift_json_quote(list->first->text));
    }
    if (swift_equal(self->mode, SWIFT_TEXT("nan"))) return swift_score(strtod("nan", NULL));
    if (sample->completion.length != 3) return swift_score(1);
    assert(swift_equal(self->mode, SWIFT_TEXT("panic")) == false);
    if (swift_equal(self->mode, SWIFT_TEXT("abort"))) abort();
    if (swift_equal(self->mode, SWIFT_TEXT("deep"))) return swift_score(deep(NULL));
    for (volatile bool forever = true; forever;) {
    }
    return swift_no_score();
}

SWIFT_REWARD(.name = "probe", .summary = "Says back what it gets", .configure = configure, .score = score);

static void rank(const void *self, const swift_sample *samples, size_t count, const swift_state *state, swift_outcome *outcomes) {
    (void)self, (void)state;
    for (size_t i = 0; i < count; i++) {
        if (samples[i].completion.length > 0) outcomes[i] = swift_score((double)count);
    }
}

SWIFT_REWARD(.name = "rank", .summary = "The size of the batch", .score_batch = rank, .whole_batch = true);

static void *begin(swift_settings *settings) {
    (void)settings;
    return swift_alloc(1, sizeof(swift_text));
}

static swift_text render_answer(const swift_answer *answer) {
    swift_text text = SWIFT_TEXT("");
    switch (answer->type) {
    case SWIFT_ANSWER_TEXT: return answer->text;
    case SWIFT_ANSWER_TOKENS:
        for (size_t i = 0; i < answer->tokens.count; i++) text = swift_format("%.*s%d,", SWIFT_ARGS(text), (int)answer->tokens.ids[i]);
        return text;
    default:
        for (size_t i = 0; i < answer->numbers.count; i++) {
            text = SWIFT_JOIN(text, swift_real(answer->numbers.items[i]), SWIFT_TEXT(","));
        }
        return text;
    }
}

static swift_error update(void *data, const swift_example *examples, size_t count) {
    swift_text *said = data;
    for (size_t i = 0; i < count; i++) {
        *said = SWIFT_JOIN(*said, SWIFT_TEXT("["), render_answer(&examples[i].prediction));
        for (size_t j = 0; j < examples[i].references.count; j++) {
            *said = SWIFT_JOIN(*said, SWIFT_TEXT("|"), render_answer(&examples[i].references.items[j]));
        }
        *said = SWIFT_JOIN(*said, render_columns(examples[i].columns), SWIFT_TEXT("]"));
    }
    return SWIFT_OK;
}

static swift_text state(const void *data) { return *(const swift_text *)data; }

static swift_error merge(void *data, swift_text state) {
    swift_text *said = data;
    *said = SWIFT_JOIN(*said, state);
    return SWIFT_OK;
}

static swift_error compute(const void *data, swift_numbers *numbers) {
    swift_text said = *(const swift_text *)data;
    for (int i = 0; i < 20; i++) swift_number(numbers, swift_format("n%d", i).data, i);
    return said.length ? swift_error_of(said) : SWIFT_OK;
}

SWIFT_METRIC(.name = "probe", .summary = "Says back what it gets", .configure = begin, .update = update, .state = state,
             .merge = merge, .compute = compute);

static swift_rows process(const void *self, const swift_json *row) {
    (void)self;
    swift_text what = {0};
    swift_json_text(swift_json_get(row, "do"), &what);
    if (swift_equal(what, SWIFT_TEXT("drop"))) return swift_drop(SWIFT_TEXT("no use"));
    if (swift_equal(what, SWIFT_TEXT("two"))) {
        return swift_many_rows((swift_text[]){SWIFT_TEXT("{\"n\":1}"), SWIFT_TEXT("{\"n\":2}")}, 2);
    }
    return swift_row(row->source);
}

static const char *const datasets[] = {"a/b", "c/d", NULL};

SWIFT_PREPROCESSOR(.name = "probe", .summary = "Rows as they are", .datasets = datasets, .process = process);
