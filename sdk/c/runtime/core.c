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

/* What a loader makes for a batch goes when it is asked for the next one: a reader may live for millions of rows. */
typedef struct block {
    struct block *next;
    uint64_t aligned;
} block;
_Static_assert(sizeof(block) == 16, "what follows it is aligned for anything");

static block *region;
static bool in_region;

void *swift_alloc(size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count ? count : 1, size ? size : 1, &bytes)) end(SWIFT_TEXT("out of memory"));
    block *made = in_region && !__builtin_add_overflow(bytes, sizeof *made, &bytes) ? calloc(1, bytes) : NULL;
    void *memory = in_region ? made + 1 : calloc(1, bytes);
    if (in_region ? !made : !memory) end(SWIFT_TEXT("out of memory"));
    if (made) {
        made->next = region;
        region = made;
    }
    return memory;
}

void swift_region_begin(void) {
    while (region) {
        block *next = region->next;
        free(region);
        region = next;
    }
    in_region = true;
}

void swift_region_end(void) { in_region = false; }

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

bool swift_is_utf8(swift_text text) {
    const unsigned char *byte = (const unsigned char *)text.data, *end = byte + text.length;
    while (byte < end) {
        unsigned lead = *byte++;
        if (lead < 0x80) continue;
        /* Bytes that follow, and the least character that needs as many. */
        int more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
        uint32_t least = more == 3 ? 0x10000 : more == 2 ? 0x800 : 0x80;
        if (lead < 0xc2 || lead > 0xf4 || end - byte < more) return false;
        uint32_t character = lead & (0x3fu >> more);
        for (; more > 0; more--) {
            if ((*byte & 0xc0) != 0x80) return false;
            character = character << 6 | (*byte++ & 0x3f);
        }
        if (character < least || character > 0x10ffff || (character >= 0xd800 && character < 0xe000)) return false;
    }
    return true;
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

/* -- What became of a source row -------------------------------------------------------------------------------------- */

_Static_assert(sizeof(swift_rows) == 12 && offsetof(swift_rows, value) == 4, "outcome");

enum { ROW, ROWS, DROPPED };

swift_rows swift_row(swift_text json) { return (swift_rows){ROW, {.text = json}}; }

swift_rows swift_many_rows(const swift_text *json, size_t length) {
    swift_text *items = swift_alloc(length, sizeof *items);
    for (size_t i = 0; i < length; i++) items[i] = json[i];
    return (swift_rows){ROWS, {.rows = {items, length}}};
}

swift_rows swift_drop(swift_text reason) { return (swift_rows){DROPPED, {.text = swift_copy(reason)}}; }

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
    bool from_tokenizer; /* the tokenizer's special tokens are among them, and need not be read */
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

static bool ends_in(swift_text text, swift_text end) {
    return text.length >= end.length && memcmp(text.data + text.length - end.length, end.data, end.length) == 0;
}

/* Refuses what nobody asked for. */
static void refuse_unread(swift_settings *settings) {
    for (const swift_json *entry = settings->object->first; entry; entry = entry->next) {
        const asked *known = settings->asked;
        while (known && !swift_equal(entry->key, swift_text_of(known->key))) known = known->next;
        bool token = ends_in(entry->key, SWIFT_TEXT("_token")) || ends_in(entry->key, SWIFT_TEXT("_special_tokens"));
        if (known || (settings->from_tokenizer && token)) continue;
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

static const swift_result *configured(void *(*configure)(swift_settings *), swift_settings settings, void **self) {
    settings.end = &settings.asked;
    if (!settings.object || settings.object->type != SWIFT_JSON_OBJECT) {
        return swift_failed(SWIFT_TEXT("the settings are not a JSON object"));
    }
    if (configure) *self = configure(&settings);
    if (!settings.reason.data) refuse_unread(&settings);
    return settings.reason.data ? swift_failed(settings.reason) : NULL;
}

const swift_result *swift_configure(void *(*configure)(swift_settings *), swift_text config, void **self) {
    return configured(configure, (swift_settings){.object = swift_json_parse(config)}, self);
}

const swift_result *swift_configure_template(void *(*configure)(swift_settings *), swift_text config, void **self) {
    return configured(configure, (swift_settings){.object = swift_json_parse(config), .from_tokenizer = true}, self);
}
