/* Texts, memory, settings, words for the user; and what a plugin's failing ends in. */
#include "internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* -- What the host offers ------------------------------------------------------------------------------------------- */

__attribute__((import_module("swift:plugin/log@0.1.0"), import_name("log")))
void swift_host_log(int32_t level, const char *data, size_t length);
__attribute__((import_module("swift:plugin/log@0.1.0"), import_name("abort")))
void swift_host_abort(const char *data, size_t length);

void swift_log(swift_level level, swift_text message) { swift_host_log(level, message.data, message.length); }

static _Noreturn void end(swift_text message) {
    swift_host_abort(message.data, message.length);
    __builtin_trap();
}

void swift_panic(const char *file, int line, swift_text message) {
    end(SWIFT_JOIN(swift_text_of(file), SWIFT_TEXT(":"), swift_integer(line), SWIFT_TEXT(": "), message));
}

/* The C library's would write to a standard error stream, which a plugin does not have. */
_Noreturn void __assert_fail(const char *expression, const char *file, int line, const char *function) {
    swift_text in = function ? SWIFT_JOIN(SWIFT_TEXT(" in "), swift_text_of(function)) : SWIFT_TEXT("");
    swift_panic(file, line, SWIFT_JOIN(SWIFT_TEXT("assertion failed"), in, SWIFT_TEXT(": "), swift_text_of(expression)));
}

/* -- Memory --------------------------------------------------------------------------------------------------------- */

void *swift_alloc(size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size ? size : 1);
    if (!memory) end(SWIFT_TEXT("out of memory"));
    return memory;
}

/* The host asks for the memory of arguments here. */
SWIFT_EXPORT("cabi_realloc")
void *swift_realloc(void *old, size_t old_size, size_t align, size_t size) {
    (void)old_size;
    if (size == 0) return (void *)align;
    void *memory = realloc(old, size);
    if (!memory) end(SWIFT_TEXT("out of memory"));
    return memory;
}

/* -- Texts ---------------------------------------------------------------------------------------------------------- */

swift_text swift_text_of(const char *string) { return (swift_text){string, string ? strlen(string) : 0}; }

swift_text swift_copy(swift_text text) { return swift_join(&text, 1); }

bool swift_equal(swift_text one, swift_text other) {
    return one.length == other.length && (one.length == 0 || memcmp(one.data, other.data, one.length) == 0);
}

static bool space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\v' || c == '\f' || c == '\r'; }

swift_text swift_trim(swift_text text) {
    while (text.length && space(text.data[0])) text.data++, text.length--;
    while (text.length && space(text.data[text.length - 1])) text.length--;
    return text;
}

swift_text swift_lowercase(swift_text text) {
    char *data = swift_alloc(text.length, 1);
    for (size_t i = 0; i < text.length; i++) {
        char c = text.data[i];
        data[i] = c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
    }
    return (swift_text){data, text.length};
}

bool swift_next_word(swift_text *rest, swift_text *word) {
    while (rest->length && space(rest->data[0])) rest->data++, rest->length--;
    *word = (swift_text){rest->data, 0};
    while (word->length < rest->length && !space(word->data[word->length])) word->length++;
    rest->data += word->length;
    rest->length -= word->length;
    return word->length > 0;
}

swift_text swift_join(const swift_text *texts, size_t count) {
    size_t length = 0;
    for (size_t i = 0; i < count; i++) length += texts[i].length;
    char *data = swift_alloc(length + 1, 1), *end_of_data = data;
    for (size_t i = 0; i < count; i++) {
        if (texts[i].length) memcpy(end_of_data, texts[i].data, texts[i].length);
        end_of_data += texts[i].length;
    }
    return (swift_text){data, length};
}

swift_text swift_integer(int64_t number) {
    char digits[21];
    size_t at = sizeof digits;
    uint64_t rest = number < 0 ? -(uint64_t)number : (uint64_t)number;
    do digits[--at] = (char)('0' + rest % 10);
    while (rest /= 10);
    if (number < 0) digits[--at] = '-';
    return swift_copy((swift_text){digits + at, sizeof digits - at});
}

swift_text swift_real(double number) {
    char digits[32];
    for (int precision = 15; precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, number);
        if (strtod(digits, NULL) == number) break;
    }
    return swift_copy(swift_text_of(digits));
}

swift_text swift_format(const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length < 0) end(SWIFT_TEXT("swift_format: the format is wrong"));
    char *data = swift_alloc((size_t)length + 1, 1);
    vsnprintf(data, (size_t)length + 1, format, again);
    va_end(again);
    return (swift_text){data, (size_t)length};
}

swift_error swift_error_of(swift_text reason) { return swift_copy(reason).data; }

/* -- Results of calls ----------------------------------------------------------------------------------------------- */

static swift_result result;

const swift_result *swift_ok(const void *items, size_t count) {
    result = (swift_result){0, {items, count}};
    return &result;
}

const swift_result *swift_failed(swift_text reason) {
    result = (swift_result){1, {reason.data, reason.length}};
    return &result;
}

const swift_result *swift_unknown(const char *kind, swift_text name, const char *const *names, size_t count) {
    swift_text message = SWIFT_JOIN(SWIFT_TEXT("there is no "), swift_text_of(kind), SWIFT_TEXT(" `"), name, SWIFT_TEXT("` here; there is `"));
    for (size_t i = 0; i < count; i++) {
        message = SWIFT_JOIN(message, i ? SWIFT_TEXT("`, `") : SWIFT_TEXT(""), swift_text_of(names[i]));
    }
    return swift_failed(SWIFT_JOIN(message, SWIFT_TEXT("`")));
}

/* -- Settings ------------------------------------------------------------------------------------------------------- */

typedef struct asked {
    const char *key;
    struct asked *next;
} asked;

struct swift_settings {
    const swift_json *object;
    asked *asked, **end;
    swift_text reason; /* of the first refusal; no data without one */
};

const swift_json *swift_setting(swift_settings *settings, const char *key) {
    asked *known = settings->asked;
    while (known && strcmp(known->key, key) != 0) known = known->next;
    if (!known) {
        known = swift_alloc(1, sizeof *known);
        known->key = key;
        *settings->end = known;
        settings->end = &known->next;
    }
    const swift_json *value = swift_json_get(settings->object, key);
    return value && value->type != SWIFT_JSON_NULL ? value : NULL;
}

void *swift_refuse(swift_settings *settings, swift_text reason) {
    if (!settings->reason.data) settings->reason = swift_copy(reason);
    return NULL;
}

/* How a value is named in an error. */
static swift_text show(const swift_json *value) {
    switch (value->type) {
    case SWIFT_JSON_ARRAY: return SWIFT_JOIN(SWIFT_TEXT("a list of "), swift_integer((int64_t)value->count));
    case SWIFT_JSON_OBJECT: return SWIFT_TEXT("an object");
    default: return value->source;
    }
}

static void wrong(swift_settings *settings, const char *key, const swift_json *value, const char *needed) {
    swift_refuse(settings, SWIFT_JOIN(SWIFT_TEXT("the setting `"), swift_text_of(key), SWIFT_TEXT("` is "), show(value),
                                      SWIFT_TEXT(", "), swift_text_of(needed), SWIFT_TEXT(" is needed")));
}

bool swift_setting_bool(swift_settings *settings, const char *key, bool fallback) {
    const swift_json *value = swift_setting(settings, key);
    if (value && !swift_json_bool(value, &fallback)) wrong(settings, key, value, "true or false");
    return fallback;
}

double swift_setting_number(swift_settings *settings, const char *key, double fallback) {
    const swift_json *value = swift_setting(settings, key);
    if (value && !swift_json_number(value, &fallback)) wrong(settings, key, value, "a number");
    return fallback;
}

int64_t swift_setting_integer(swift_settings *settings, const char *key, int64_t fallback) {
    const swift_json *value = swift_setting(settings, key);
    if (value && !swift_json_integer(value, &fallback)) wrong(settings, key, value, "a whole number");
    return fallback;
}

swift_text swift_setting_text(swift_settings *settings, const char *key, const char *fallback) {
    const swift_json *value = swift_setting(settings, key);
    swift_text text = swift_text_of(fallback);
    if (value && !swift_json_text(value, &text)) wrong(settings, key, value, "a text");
    return text;
}

/* Refuses what nobody asked for. */
static void refuse_unread(swift_settings *settings) {
    for (const swift_json *entry = settings->object->first; entry; entry = entry->next) {
        const asked *known = settings->asked;
        while (known && !swift_equal(entry->key, swift_text_of(known->key))) known = known->next;
        if (known) continue;
        swift_text message = SWIFT_JOIN(SWIFT_TEXT("there is no setting `"), entry->key, SWIFT_TEXT("`; there are "));
        if (!settings->asked) message = SWIFT_JOIN(message, SWIFT_TEXT("none"));
        for (known = settings->asked; known; known = known->next) {
            swift_text before = known == settings->asked ? SWIFT_TEXT("`") : known->next ? SWIFT_TEXT(", `") : SWIFT_TEXT(" and `");
            message = SWIFT_JOIN(message, before, swift_text_of(known->key), SWIFT_TEXT("`"));
        }
        swift_refuse(settings, message);
        return;
    }
}

const swift_result *swift_configure(void *(*configure)(swift_settings *), swift_text config, void **self) {
    swift_settings settings = {.object = swift_json_parse(config)};
    settings.end = &settings.asked;
    if (!settings.object || settings.object->type != SWIFT_JSON_OBJECT) {
        return swift_failed(SWIFT_TEXT("the settings are not a JSON object"));
    }
    if (configure) *self = configure(&settings);
    if (!settings.reason.data) refuse_unread(&settings);
    return settings.reason.data ? swift_failed(settings.reason) : NULL;
}
