/* The import of files, for a plugin.toml with `read = true`. */
#include "internal.h"

#include "../swift-dataset.h"

_Static_assert(sizeof(swift_entry) == 24 && offsetof(swift_entry, size) == 16, "entry");

__attribute__((import_module("swift:plugin/files@0.1.0"), import_name("entries")))
void swift_host_entries(const char *path, size_t length, swift_result *answer);
__attribute__((import_module("swift:plugin/files@0.1.0"), import_name("size")))
void swift_host_size(const char *path, size_t length, void *answer);
__attribute__((import_module("swift:plugin/files@0.1.0"), import_name("read")))
void swift_host_read(const char *path, size_t length, uint64_t offset, uint32_t count, swift_result *answer);

static swift_error failed(swift_list reason) { return swift_error_of((swift_text){reason.items, reason.count}); }

swift_error swift_file_entries(swift_text path, swift_entries *entries) {
    swift_result answer;
    swift_host_entries(path.data, path.length, &answer);
    if (answer.failed) return failed(answer.payload);
    *entries = (swift_entries){answer.payload.items, answer.payload.count};
    return SWIFT_OK;
}

swift_error swift_file_size(swift_text path, uint64_t *size) {
    /* result<u64, string>: the number lies where the text does. */
    struct {
        uint8_t failed;
        union {
            uint64_t size;
            swift_list reason;
        };
    } answer;
    swift_host_size(path.data, path.length, &answer);
    if (answer.failed) return failed(answer.reason);
    *size = answer.size;
    return SWIFT_OK;
}

swift_error swift_file_read(swift_text path, uint64_t offset, uint32_t length, swift_text *bytes) {
    swift_result answer;
    swift_host_read(path.data, path.length, offset, length, &answer);
    if (answer.failed) return failed(answer.payload);
    *bytes = (swift_text){answer.payload.items, answer.payload.count};
    return SWIFT_OK;
}

void swift_forget(swift_text bytes) {
    if (bytes.length) free((void *)bytes.data);
}
