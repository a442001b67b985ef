/* The interface `loaders` of `swift:dataset`, for the loaders that were named with SWIFT_LOADER. */
#include "internal.h"

#include "../swift-dataset.h"

#include <string.h>

typedef struct info {
    swift_text name, summary;
    swift_list endings;
} info;
_Static_assert(sizeof(info) == 24, "info");

typedef struct batch {
    swift_list outcomes;
    swift_text cursor;
    bool last;
} batch;
_Static_assert(sizeof(batch) == 20, "batch");

struct swift_batch {
    swift_rows *items;
    size_t count, room;
    swift_text cursor;
    bool last;
};

static swift_loader *first, **end = &first;
static size_t count;

void swift_add_loader(swift_loader *loader) {
    *end = loader;
    end = &loader->next_loader;
    count++;
}

void swift_batch_row(swift_batch *batch, swift_rows row) {
    if (batch->count == batch->room) {
        size_t room = batch->room ? batch->room * 2 : 64;
        swift_rows *items = swift_alloc(room, sizeof *items);
        if (batch->count) memcpy(items, batch->items, batch->count * sizeof *items);
        batch->items = items;
        batch->room = room;
    }
    batch->items[batch->count++] = row;
}

size_t swift_batch_count(const swift_batch *batch) { return batch->count; }
void swift_batch_cursor(swift_batch *batch, swift_text cursor) { batch->cursor = cursor; }
void swift_batch_last(swift_batch *batch) { batch->last = true; }

SWIFT_EXPORT("swift:dataset/loaders@0.1.0#loaders")
const swift_list *swift_export_loaders(void) {
    static swift_list list;
    info *infos = swift_alloc(count, sizeof *infos), *next = infos;
    for (const swift_loader *one = first; one; one = one->next_loader) {
        size_t endings = 0;
        while (one->endings && one->endings[endings]) endings++;
        swift_text *texts = swift_alloc(endings, sizeof *texts);
        for (size_t i = 0; i < endings; i++) texts[i] = swift_text_of(one->endings[i]);
        *next++ = (info){swift_text_of(one->name), swift_text_of(one->summary), {texts, endings}};
    }
    list = (swift_list){infos, count};
    return &list;
}

/* A source that is being read. */
typedef struct reader {
    const swift_loader *loader;
    void *self;
} reader;

__attribute__((import_module("[export]swift:dataset/loaders@0.1.0"), import_name("[resource-new]reader")))
int32_t swift_host_new_reader(reader *reader);

/* `open` gets the settings and the source at once. */
static const swift_source *opening;
static reader *opened;
static swift_error refused;

static void *open_source(swift_settings *settings) {
    refused = opened->loader->open(opening, settings, &opened->self);
    return NULL;
}

SWIFT_EXPORT("swift:dataset/loaders@0.1.0#open")
const swift_result *swift_export_loader_open(const char *name, size_t name_length, const char *location, size_t location_length,
                                             uint32_t has_subset, const char *subset, size_t subset_length, const char *config,
                                             size_t config_length, uint32_t has_cursor, const char *cursor, size_t cursor_length) {
    swift_text wanted = {name, name_length};
    swift_source source = {{location, location_length}, {has_subset, {subset, subset_length}}, {has_cursor, {cursor, cursor_length}}};
    const char **names = swift_alloc(count, sizeof *names);
    size_t known = 0;
    for (const swift_loader *one = first; one; one = one->next_loader) {
        names[known++] = one->name;
        if (!swift_equal(swift_text_of(one->name), wanted)) continue;
        if (!one->open || !one->next) {
            return swift_failed(SWIFT_JOIN(SWIFT_TEXT("the loader `"), wanted, SWIFT_TEXT("` needs `.open` and `.next`")));
        }
        opened = swift_alloc(1, sizeof *opened);
        opened->loader = one;
        opening = &source;
        void *none;
        const swift_result *failed = swift_configure(open_source, (swift_text){config, config_length}, &none);
        if (failed) return failed;
        if (refused) return swift_failed(swift_text_of(refused));
        return swift_ok((const void *)(intptr_t)swift_host_new_reader(opened), 0);
    }
    return swift_unknown("dataset loader", wanted, names, known);
}

typedef struct optional_length {
    bool given;
    uint64_t length;
} optional_length;

SWIFT_EXPORT("swift:dataset/loaders@0.1.0#[method]reader.length")
const optional_length *swift_export_reader_length(reader *reader) {
    static optional_length answer;
    answer = (optional_length){0};
    if (reader->loader->length) answer = (optional_length){true, reader->loader->length(reader->self)};
    return &answer;
}

SWIFT_EXPORT("swift:dataset/loaders@0.1.0#[method]reader.next")
const void *swift_export_reader_next(reader *reader, uint32_t limit) {
    static struct {
        uint8_t failed;
        union {
            batch batch;
            swift_text reason;
        };
    } answer;
    swift_batch taken = {0};
    swift_region_begin();
    swift_error error = reader->loader->next(reader->self, limit, &taken);
    swift_region_end();
    memset(&answer, 0, sizeof answer);
    if (error) {
        answer.failed = 1;
        answer.reason = swift_text_of(error);
    } else {
        answer.batch = (batch){{taken.items, taken.count}, taken.cursor, taken.last};
    }
    return &answer;
}

SWIFT_EXPORT("swift:dataset/loaders@0.1.0#[dtor]reader")
void swift_export_reader_drop(reader *reader) {
    free(reader);
}
