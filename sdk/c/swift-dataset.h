/* swift-dataset.h: dataset loaders, and reading files. Include it beside swift.h, and name the loader with SWIFT_LOADER. */
#ifndef SWIFT_DATASET_H
#define SWIFT_DATASET_H

#include "swift.h"

/* -- Files: for a plugin.toml with `read = true` under [capabilities], in the folders that the user granted ---------------- */

typedef struct swift_entry {
    swift_text name;
    bool is_folder;
    uint64_t size;
} swift_entry;

typedef struct swift_entries {
    const swift_entry *items;
    size_t count;
} swift_entries;

/* What lies in a folder, by name. */
swift_error swift_file_entries(swift_text path, swift_entries *entries);
/* How many bytes a file has. */
swift_error swift_file_size(swift_text path, uint64_t *size);
/* At most `length` bytes from `offset` on; fewer at the end of the file, none behind it. `swift_forget` frees them. */
swift_error swift_file_read(swift_text path, uint64_t offset, uint32_t length, swift_text *bytes);
/* Gives back what was read and is no longer needed: an instance that reads a large file would fill its memory. */
void swift_forget(swift_text bytes);

/* -- Loaders ---------------------------------------------------------------------------------------------------------- */

/* What the user named. */
typedef struct swift_source {
    swift_text location; /* a file, a folder, or whatever the loader understands */
    swift_optional_text subset;
    swift_optional_text cursor; /* where an earlier reader stopped, as `next` gave it */
} swift_source;

/* The rows of one call of `next`. */
typedef struct swift_batch swift_batch;
/* What became of the next source row. */
void swift_batch_row(swift_batch *batch, swift_rows row);
/* How many rows there are so far. */
size_t swift_batch_count(const swift_batch *batch);
/* Where the next row begins, in a form of your own: another reader goes on from there. */
void swift_batch_cursor(swift_batch *batch, swift_text cursor);
/* There are no more rows. */
void swift_batch_last(swift_batch *batch);

typedef struct swift_loader {
    const char *name;
    const char *summary;
    const char *const *endings; /* of files that it is for (".tsv"), ending in NULL; optional */
    /* Opens a source, at its cursor if it has one, and gives the reader in `reader`. Settings that it does not ask for are
     * refused. */
    swift_error (*open)(const swift_source *source, swift_settings *settings, void **reader);
    /* At most `limit` rows. What `swift_alloc` and the functions of swift.h make here is taken back when `next` is called
     * again: keep what must stay in memory that `open` made. */
    swift_error (*next)(void *reader, size_t limit, swift_batch *batch);
    /* How many rows there are in all, where that is known at once. Optional. */
    uint64_t (*length)(void *reader);
    struct swift_loader *next_loader; /* the SDK's */
} swift_loader;

/* SWIFT_LOADER(.name = "tsv", .endings = endings, .open = open, .next = next); */
#define SWIFT_LOADER(...) SWIFT_REGISTER(loader, __VA_ARGS__)
void swift_add_loader(swift_loader *loader);

#endif
