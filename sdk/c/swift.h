/* swift.h: plugins for swift in C.
 *
 * A plugin is a WebAssembly component that swift runs in a sandbox. Write functions, name them with SWIFT_REWARD,
 * SWIFT_METRIC or SWIFT_PREPROCESSOR, and build the folder with `swift plugin build`. swift-template.h has chat templates,
 * swift-dataset.h loaders and files, swift-http.h requests.
 *
 * Nothing has to be freed. Swift makes a fresh instance of the plugin for a few samples, and all of its memory goes with it:
 * what a function gets stays valid as long as the instance, and `swift_alloc` never fails. For the same reason nothing is
 * remembered from one call to the next, but for what a metric takes in.
 *
 * There is no stdio, clock, file or environment. `assert` and `abort` work: message, file and line reach the user.
 */
#ifndef SWIFT_H
#define SWIFT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#ifdef __cplusplus
#error "plugins in C are written in C11: compile the file as C"
#endif

/* -- Text ----------------------------------------------------------------------------------------------------------- */

/* UTF-8. It does not end in a zero. */
typedef struct swift_text {
    const char *data;
    size_t length;
} swift_text;

/* The text of a literal. */
#define SWIFT_TEXT(literal) ((swift_text){"" literal, sizeof(literal) - 1})

/* The text of a string that ends in a zero; empty for NULL. */
swift_text swift_text_of(const char *string);
/* Whether two texts have the same bytes. */
bool swift_equal(swift_text one, swift_text other);
/* Whether its bytes are UTF-8: those of a file may be anything, and what a plugin answers must be. */
bool swift_is_utf8(swift_text text);
/* Without the ASCII whitespace at its ends. */
swift_text swift_trim(swift_text text);
/* A copy with its ASCII letters in lower case. */
swift_text swift_lowercase(swift_text text);
/* Takes the next word off the front of `rest`; words lie between ASCII whitespace. False when there is none left. */
bool swift_next_word(swift_text *rest, swift_text *word);
/* The texts one after another: SWIFT_JOIN(SWIFT_TEXT("got "), word). */
#define SWIFT_JOIN(...)                                                                                                    \
    swift_join((const swift_text[]){__VA_ARGS__}, sizeof((const swift_text[]){__VA_ARGS__}) / sizeof(swift_text))
swift_text swift_join(const swift_text *texts, size_t count);
/* A number in decimals. */
swift_text swift_integer(int64_t number);
/* The fewest digits that read back as this finite number. */
swift_text swift_real(double number);
/* As printf, whose code makes a plugin some 15 KB larger. A text is "%.*s" with SWIFT_ARGS(text). */
swift_text swift_format(const char *format, ...) __attribute__((format(printf, 1, 2)));
#define SWIFT_ARGS(text) (int)(text).length, (text).data

/* Zeroed memory for `count` things of `size` bytes. Never NULL. */
void *swift_alloc(size_t count, size_t size);

/* -- JSON ----------------------------------------------------------------------------------------------------------- */

typedef enum swift_json_type {
    SWIFT_JSON_NULL,
    SWIFT_JSON_BOOL,
    SWIFT_JSON_NUMBER,
    SWIFT_JSON_TEXT,
    SWIFT_JSON_ARRAY,
    SWIFT_JSON_OBJECT,
} swift_json_type;

/* A value. Walk a list or object with `for (const swift_json *item = value->first; item; item = item->next)`. */
typedef struct swift_json {
    swift_json_type type;
    swift_text source; /* as it was written: numbers keep their digits */
    swift_text text;   /* SWIFT_JSON_TEXT: the text itself */
    swift_text key;    /* in an object */
    const struct swift_json *first;
    const struct swift_json *next;
    size_t count; /* entries of a list or object */
} swift_json;

/* Reads a JSON text; NULL when it is none. */
const swift_json *swift_json_parse(swift_text text);
/* The value of a key; NULL when `object` is NULL, no object, or lacks it. */
const swift_json *swift_json_get(const swift_json *object, const char *key);
/* Each is false, and leaves `out` alone, when `value` is NULL or something else. */
bool swift_json_bool(const swift_json *value, bool *out);
bool swift_json_number(const swift_json *value, double *out);
bool swift_json_integer(const swift_json *value, int64_t *out);
bool swift_json_text(const swift_json *value, swift_text *out);
/* A text as JSON, in quotes. */
swift_text swift_json_quote(swift_text text);

/* Another column of a row: its name, and its value as JSON. */
typedef struct swift_column {
    swift_text name;
    swift_text json;
} swift_column;

typedef struct swift_columns {
    const swift_column *items;
    size_t count;
} swift_columns;

/* The value of a column; NULL when there is none of this name. */
const swift_json *swift_column_get(swift_columns columns, const char *name);

/* -- Settings: what the user set for the plugin, read in `configure` --------------------------------------------------- */

typedef struct swift_settings swift_settings;

/* The value of a key, or `fallback` when it is not set. A value of another type, and a setting that was never asked for, are
 * errors that name the key: nothing the user wrote is ignored. */
bool swift_setting_bool(swift_settings *settings, const char *key, bool fallback);
double swift_setting_number(swift_settings *settings, const char *key, double fallback);
int64_t swift_setting_integer(swift_settings *settings, const char *key, int64_t fallback);
swift_text swift_setting_text(swift_settings *settings, const char *key, const char *fallback);
/* Any value; NULL when it is not set. */
const swift_json *swift_setting(swift_settings *settings, const char *key);
/* Refuses the settings for this reason, which the user sees: `return swift_refuse(settings, ...)`. Gives NULL. */
void *swift_refuse(swift_settings *settings, swift_text reason);

/* -- Words for the user --------------------------------------------------------------------------------------------- */

typedef enum swift_level { SWIFT_DEBUG, SWIFT_INFO, SWIFT_WARN, SWIFT_ERROR } swift_level;

/* One line. `SWIFT_DEBUG` is shown by `swift plugin test` and in debug logs alone. */
void swift_log(swift_level level, swift_text message);
/* Ends the call with this message, the file and the line: for what must not happen. */
#define SWIFT_PANIC(message) swift_panic(__FILE__, __LINE__, (message))
_Noreturn void swift_panic(const char *file, int line, swift_text message);
/* The C library's would end without a word. */
#define abort() SWIFT_PANIC(SWIFT_TEXT("abort() was called"))

/* -- Reward functions: a score for a completion ------------------------------------------------------------------------ */

typedef struct swift_message {
    swift_text role; /* system, user, assistant, tool_call, tool_response */
    swift_text content;
} swift_message;

typedef struct swift_messages {
    const swift_message *items;
    size_t count;
} swift_messages;

typedef struct swift_optional_text {
    bool given;
    swift_text text;
} swift_optional_text;

/* One completion with all that is known of it. */
typedef struct swift_sample {
    swift_messages prompt;
    swift_text completion;
    uint32_t completion_tokens;   /* its end included */
    swift_optional_text solution; /* the column `solution` */
    swift_columns columns;        /* every other column of the row */
} swift_sample;

/* Where the run is. */
typedef struct swift_state {
    uint64_t step;
    uint64_t max_steps; /* 0 where that is not known */
    double epoch;
    uint64_t seed;    /* the only source of chance */
    swift_text extra; /* a JSON object with whatever else is known */
} swift_state;

/* What a sample got. Make one with the three functions below. */
typedef struct swift_outcome {
    uint8_t what;
    union {
        double score;
        swift_text reason;
    } value;
} swift_outcome;

/* A finite number. */
swift_outcome swift_score(double score);
/* This function has nothing to say about the sample: it does not count. */
swift_outcome swift_no_score(void);
/* It should have a score and has none, for this reason: logged and counted. */
swift_outcome swift_fail(swift_text reason);

typedef struct swift_reward {
    const char *name;    /* lower case, digits, `_` and `-` */
    const char *summary; /* one line */
    /* Reads the settings; what it gives is `self` of the others. Optional: without it there are no settings. */
    void *(*configure)(swift_settings *settings);
    /* One of these two: the outcome of a sample, or the outcomes of all of them. `whole_batch` says that a score depends on
     * the other samples, so that a batch is never cut into pieces. */
    swift_outcome (*score)(const void *self, const swift_sample *sample, const swift_state *state);
    void (*score_batch)(const void *self, const swift_sample *samples, size_t count, const swift_state *state,
                        swift_outcome *outcomes);
    bool whole_batch;
    struct swift_reward *next; /* the SDK's */
} swift_reward;

/* SWIFT_REWARD(.name = "short", .summary = "...", .score = score); in any number of files. */
#define SWIFT_REWARD(...) SWIFT_REGISTER(reward, __VA_ARGS__)
void swift_add_reward(swift_reward *reward);

/* -- Metrics: named numbers of an evaluation --------------------------------------------------------------------------- */

typedef enum swift_answer_type { SWIFT_ANSWER_TEXT, SWIFT_ANSWER_TOKENS, SWIFT_ANSWER_NUMBERS } swift_answer_type;

/* What was predicted, or what it should have been: `type` is a swift_answer_type. */
typedef struct swift_answer {
    uint8_t type;
    union {
        swift_text text;
        struct {
            const int32_t *ids; /* -100 marks a position that does not count */
            size_t count;
        } tokens;
        struct {
            const double *items; /* scores in a prediction, relevances or labels in a reference */
            size_t count;
        } numbers;
    };
} swift_answer;

typedef struct swift_answers {
    const swift_answer *items;
    size_t count;
} swift_answers;

typedef struct swift_example {
    swift_answer prediction;
    swift_answers references; /* any of them is right */
    swift_columns columns;    /* every other column of the row */
} swift_example;

typedef struct swift_numbers swift_numbers;

/* Reports a finite number. One that is not defined (a mean of nothing) is left out. */
void swift_number(swift_numbers *numbers, const char *name, double value);

/* Why a call failed, for the user, or SWIFT_OK. */
typedef const char *swift_error;
#define SWIFT_OK ((swift_error)0)
/* The error of a text. */
swift_error swift_error_of(swift_text reason);

/* An evaluation is cut into batches; each is taken in by an instance of its own (`configure`, `update`, `state`), and one last
 * instance puts the states together (`configure`, `merge`..., `compute`). */
typedef struct swift_metric {
    const char *name;
    const char *summary;
    bool higher_is_better;
    /* Reads the settings and gives what the others change. */
    void *(*configure)(swift_settings *settings);
    swift_error (*update)(void *self, const swift_example *examples, size_t count);
    /* All that was taken in, in a form of your own. */
    swift_text (*state)(const void *self);
    /* Takes in the state of another instance. */
    swift_error (*merge)(void *self, swift_text state);
    swift_error (*compute)(const void *self, swift_numbers *numbers);
    struct swift_metric *next; /* the SDK's */
} swift_metric;

/* SWIFT_METRIC(.name = "exact", .higher_is_better = true, .configure = configure, ...); */
#define SWIFT_METRIC(...) SWIFT_REGISTER(metric, __VA_ARGS__)
void swift_add_metric(swift_metric *metric);

/* -- Row preprocessors: a source row to canonical rows ----------------------------------------------------------------- */

/* What became of a row. Make one with the three functions below. */
typedef struct swift_rows {
    uint8_t what;
    union {
        swift_text text;
        struct {
            const swift_text *items;
            size_t count;
        } rows;
    } value;
} swift_rows;

/* One canonical row, as JSON. */
swift_rows swift_row(swift_text json);
/* Several: at least one. */
swift_rows swift_many_rows(const swift_text *json, size_t count);
/* None, for this reason: a few words that are the same for the same trouble. */
swift_rows swift_drop(swift_text reason);

typedef struct swift_preprocessor {
    const char *name;
    const char *summary;
    const char *const *datasets; /* ids of datasets that it is for, ending in NULL; optional */
    void *(*configure)(swift_settings *settings); /* optional */
    swift_rows (*process)(const void *self, const swift_json *row);
    struct swift_preprocessor *next; /* the SDK's */
} swift_preprocessor;

/* SWIFT_PREPROCESSOR(.name = "alpaca", .summary = "...", .process = process); */
#define SWIFT_PREPROCESSOR(...) SWIFT_REGISTER(preprocessor, __VA_ARGS__)
void swift_add_preprocessor(swift_preprocessor *preprocessor);

/* -- How they are registered ------------------------------------------------------------------------------------------- */

#define SWIFT_REGISTER(kind, ...) SWIFT_REGISTER_AT(kind, __LINE__, __VA_ARGS__)
#define SWIFT_REGISTER_AT(kind, line, ...) SWIFT_REGISTER_AS(kind, line, __VA_ARGS__)
#define SWIFT_REGISTER_AS(kind, line, ...)                                                                                 \
    static swift_##kind swift_##kind##_##line = {__VA_ARGS__};                                                             \
    __attribute__((constructor)) static void swift_register_##kind##_##line(void) {                                        \
        swift_add_##kind(&swift_##kind##_##line);                                                                          \
    }                                                                                                                      \
    _Static_assert(1, "")

#endif
