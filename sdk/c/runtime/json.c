/* JSON: a strict reader into a tree that keeps the source of every value, and quoting. */
#include "internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Deepest nesting: the reader calls itself. */
enum { MAX_DEPTH = 128 };

typedef struct reader {
    const char *at, *end;
    int depth;
} reader;

static bool value(reader *in, swift_json *out);

static void skip_space(reader *in) {
    while (in->at < in->end && (*in->at == ' ' || *in->at == '\t' || *in->at == '\n' || *in->at == '\r')) in->at++;
}

static bool take(reader *in, char c) {
    if (in->at == in->end || *in->at != c) return false;
    in->at++;
    return true;
}

static bool word(reader *in, const char *literal) {
    size_t length = strlen(literal);
    if ((size_t)(in->end - in->at) < length || memcmp(in->at, literal, length) != 0) return false;
    in->at += length;
    return true;
}

static bool digits(reader *in) {
    const char *start = in->at;
    while (in->at < in->end && *in->at >= '0' && *in->at <= '9') in->at++;
    return in->at > start;
}

static bool number(reader *in) {
    take(in, '-');
    if (!take(in, '0') && !digits(in)) return false;
    if (take(in, '.') && !digits(in)) return false;
    if (take(in, 'e') || take(in, 'E')) {
        if (!take(in, '+')) take(in, '-');
        return digits(in);
    }
    return true;
}

static bool hex(reader *in, uint32_t *out) {
    if (in->end - in->at < 4) return false;
    *out = 0;
    for (int i = 0; i < 4; i++) {
        char c = *in->at++;
        uint32_t digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : 16;
        if (digit == 16) return false;
        *out = *out << 4 | digit;
    }
    return true;
}

static char *encode(char *out, uint32_t c) {
    if (c < 0x80) {
        *out++ = (char)c;
        return out;
    }
    if (c < 0x800) {
        *out++ = (char)(0xc0 | c >> 6);
    } else {
        if (c < 0x10000) {
            *out++ = (char)(0xe0 | c >> 12);
        } else {
            *out++ = (char)(0xf0 | c >> 18);
            *out++ = (char)(0x80 | (c >> 12 & 0x3f));
        }
        *out++ = (char)(0x80 | (c >> 6 & 0x3f));
    }
    *out++ = (char)(0x80 | (c & 0x3f));
    return out;
}

/* The rest of an escape after its backslash. Half a surrogate pair becomes U+FFFD. */
static bool escape(reader *in, char **out) {
    static const char names[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    if (in->at == in->end) return false;
    char c = *in->at++;
    if (c != 'u') {
        const char *found = c ? strchr(names, c) : NULL;
        if (!found) return false;
        *(*out)++ = meanings[found - names];
        return true;
    }
    uint32_t code, low;
    if (!hex(in, &code)) return false;
    if (code >= 0xd800 && code < 0xdc00) {
        reader ahead = *in;
        if (word(&ahead, "\\u") && hex(&ahead, &low) && low >= 0xdc00 && low < 0xe000) {
            *in = ahead;
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        }
    }
    *out = encode(*out, code >= 0xd800 && code < 0xe000 ? 0xfffd : code);
    return true;
}

/* After the opening quote. A text without escapes is a piece of the source. */
static bool text(reader *in, swift_text *out) {
    const char *start = in->at;
    while (in->at < in->end && *in->at != '"' && *in->at != '\\' && (unsigned char)*in->at >= 0x20) in->at++;
    if (in->at == in->end) return false;
    if (*in->at == '"') {
        *out = (swift_text){start, (size_t)(in->at++ - start)};
        return true;
    }
    const char *quote = in->at;
    while (quote < in->end && *quote != '"') quote += *quote == '\\' ? 2 : 1;
    if (quote >= in->end) return false;
    /* No escape is shorter than what it stands for. */
    char *data = swift_alloc((size_t)(quote - start), 1), *next = data;
    in->at = start;
    while (*in->at != '"') {
        char c = *in->at++;
        if (c == '\\') {
            if (!escape(in, &next)) return false;
        } else if ((unsigned char)c < 0x20) {
            return false;
        } else {
            *next++ = c;
        }
    }
    in->at++;
    *out = (swift_text){data, (size_t)(next - data)};
    return true;
}

/* The entries of a list or object, after its opening bracket. */
static bool entries(reader *in, swift_json *out, char close) {
    if (++in->depth > MAX_DEPTH) return false;
    const swift_json **end = &out->first;
    skip_space(in);
    if (!take(in, close)) {
        do {
            swift_json *entry = swift_alloc(1, sizeof *entry);
            skip_space(in);
            if (close == '}') {
                if (!take(in, '"') || !text(in, &entry->key)) return false;
                skip_space(in);
                if (!take(in, ':')) return false;
            }
            if (!value(in, entry)) return false;
            *end = entry;
            end = &entry->next;
            out->count++;
        } while (take(in, ','));
        if (!take(in, close)) return false;
    }
    in->depth--;
    return true;
}

/* A value with the space around it. */
static bool value(reader *in, swift_json *out) {
    skip_space(in);
    if (in->at == in->end) return false;
    const char *start = in->at;
    bool read;
    switch (*start) {
    case '{': out->type = SWIFT_JSON_OBJECT, in->at++, read = entries(in, out, '}'); break;
    case '[': out->type = SWIFT_JSON_ARRAY, in->at++, read = entries(in, out, ']'); break;
    case '"': out->type = SWIFT_JSON_TEXT, in->at++, read = text(in, &out->text); break;
    case 't': out->type = SWIFT_JSON_BOOL, read = word(in, "true"); break;
    case 'f': out->type = SWIFT_JSON_BOOL, read = word(in, "false"); break;
    case 'n': out->type = SWIFT_JSON_NULL, read = word(in, "null"); break;
    default: out->type = SWIFT_JSON_NUMBER, read = number(in); break;
    }
    out->source = (swift_text){start, (size_t)(in->at - start)};
    skip_space(in);
    return read;
}

const swift_json *swift_json_parse(swift_text source) {
    reader in = {source.data, source.data + source.length, 0};
    swift_json *root = swift_alloc(1, sizeof *root);
    return value(&in, root) && in.at == in.end ? root : NULL;
}

const swift_json *swift_json_get(const swift_json *object, const char *key) {
    if (!object || object->type != SWIFT_JSON_OBJECT) return NULL;
    const swift_json *found = NULL;
    /* Of equal keys the last one counts, as everywhere. */
    for (const swift_json *entry = object->first; entry; entry = entry->next) {
        if (swift_equal(entry->key, swift_text_of(key))) found = entry;
    }
    return found;
}

bool swift_json_bool(const swift_json *value, bool *out) {
    if (!value || value->type != SWIFT_JSON_BOOL) return false;
    *out = value->source.data[0] == 't';
    return true;
}

bool swift_json_number(const swift_json *value, double *out) {
    if (!value || value->type != SWIFT_JSON_NUMBER) return false;
    /* A copy ends in a zero, as strtod needs it. */
    double read = strtod(swift_copy(value->source).data, NULL);
    if (!isfinite(read)) return false;
    *out = read;
    return true;
}

bool swift_json_integer(const swift_json *value, int64_t *out) {
    if (!value || value->type != SWIFT_JSON_NUMBER) return false;
    const char *source = swift_copy(value->source).data;
    char *end;
    errno = 0;
    int64_t read = strtoll(source, &end, 10);
    if (*end) {
        /* 8.0 and 1e3 are whole too. */
        double real;
        if (!swift_json_number(value, &real) || real != trunc(real) || fabs(real) > 9007199254740992.0) return false;
        read = (int64_t)real;
    } else if (errno) {
        return false;
    }
    *out = read;
    return true;
}

bool swift_json_text(const swift_json *value, swift_text *out) {
    if (!value || value->type != SWIFT_JSON_TEXT) return false;
    *out = value->text;
    return true;
}

swift_text swift_json_quote(swift_text source) {
    static const char hexadecimal[] = "0123456789abcdef";
    char *data = swift_alloc(source.length * 6 + 2, 1), *out = data;
    *out++ = '"';
    for (size_t i = 0; i < source.length; i++) {
        unsigned char c = (unsigned char)source.data[i];
        if (c == '"' || c == '\\') {
            *out++ = '\\';
            *out++ = (char)c;
        } else if (c == '\n') {
            *out++ = '\\';
            *out++ = 'n';
        } else if (c < 0x20) {
            memcpy(out, "\\u00", 4);
            out[4] = hexadecimal[c >> 4];
            out[5] = hexadecimal[c & 15];
            out += 6;
        } else {
            *out++ = (char)c;
        }
    }
    *out++ = '"';
    return (swift_text){data, (size_t)(out - data)};
}

const swift_json *swift_column_get(swift_columns columns, const char *name) {
    for (size_t i = 0; i < columns.count; i++) {
        if (swift_equal(columns.items[i].name, swift_text_of(name))) return swift_json_parse(columns.items[i].json);
    }
    return NULL;
}
