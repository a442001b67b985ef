/* A dataset loader: text files with a query, a tab and a response in each line. */
#include <string.h>

#include "swift.h"
#include "swift-dataset.h"

/* Bytes that are read at once: each read asks the host. */
#define PIECE 65536

/* A file that is being read. */
typedef struct lines {
    swift_text path;
    uint64_t at;     /* where the next line begins */
    swift_text rest; /* of the piece that was read last */
    char *piece;     /* what `rest` lies in */
    uint64_t read;   /* where the next piece begins */
} lines;

/* The cursor is the byte offset of the next line. */
static swift_error open(const swift_source *source, swift_settings *settings, void **reader) {
    (void)settings;
    lines *self = swift_alloc(1, sizeof *self);
    int64_t at = 0;
    if (source->cursor.given && !swift_json_integer(swift_json_parse(source->cursor.text), &at)) return "the cursor is no number";
    uint64_t size;
    swift_error error = swift_file_size(source->location, &size);
    if (error) return error;
    *self = (lines){.path = source->location, .at = (uint64_t)at, .read = (uint64_t)at};
    *reader = self;
    return SWIFT_OK;
}

/* The next line with its end; empty behind the last one. */
static swift_error next_line(lines *self, swift_text *line) {
    *line = (swift_text){"", 0};
    for (;;) {
        const char *end = self->rest.length ? memchr(self->rest.data, '\n', self->rest.length) : NULL;
        size_t length = end ? (size_t)(end - self->rest.data) + 1 : self->rest.length;
        if (length) {
            swift_text part = {self->rest.data, length};
            *line = SWIFT_JOIN(*line, part);
            self->rest.data += length;
            self->rest.length -= length;
        }
        if (end) return SWIFT_OK;
        swift_text bytes;
        swift_error error = swift_file_read(self->path, self->read, PIECE, &bytes);
        if (error || bytes.length == 0) return error;
        swift_forget((swift_text){self->piece, self->piece != NULL});
        self->piece = (char *)bytes.data;
        self->rest = bytes;
        self->read += bytes.length;
    }
}

static swift_text message(const char *role, swift_text content) {
    return SWIFT_JOIN(SWIFT_TEXT("{\"role\":"), swift_json_quote(swift_text_of(role)), SWIFT_TEXT(",\"content\":"),
                      swift_json_quote(content), SWIFT_TEXT("}"));
}

static swift_rows row(swift_text line) {
    if (!swift_is_utf8(line)) return swift_drop(SWIFT_TEXT("no UTF-8"));
    while (line.length && (line.data[line.length - 1] == '\n' || line.data[line.length - 1] == '\r')) line.length--;
    const char *tab = line.length ? memchr(line.data, '\t', line.length) : NULL;
    if (!tab) return swift_drop(SWIFT_TEXT("no tab"));
    size_t split = (size_t)(tab - line.data);
    swift_text query = {line.data, split}, response = {tab + 1, line.length - split - 1};
    return swift_row(SWIFT_JOIN(SWIFT_TEXT("{\"messages\":["), message("user", query), SWIFT_TEXT(","),
                                message("assistant", response), SWIFT_TEXT("]}")));
}

static swift_error next(void *reader, size_t limit, swift_batch *batch) {
    lines *self = reader;
    while (swift_batch_count(batch) < limit) {
        swift_text line;
        swift_error error = next_line(self, &line);
        if (error) return error;
        if (line.length == 0) {
            swift_batch_last(batch);
            break;
        }
        self->at += line.length;
        swift_batch_row(batch, row(line));
    }
    swift_batch_cursor(batch, swift_integer((int64_t)self->at));
    return SWIFT_OK;
}

static const char *const endings[] = {".tsv", NULL};

SWIFT_LOADER(.name = "tsv", .summary = "Text files with a query and a response in each line", .endings = endings, .open = open,
             .next = next);
