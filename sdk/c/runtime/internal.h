/* What the files of the runtime share.
 *
 * There are no generated bindings: the canonical ABI of components lays records, lists and variants out as C lays out its
 * structs, so the structs of swift.h are what the host writes and reads. The functions with an export name below are the
 * contract's functions; building a plugin checks their signatures against the contracts, and the assertions check layouts. */
#ifndef SWIFT_INTERNAL_H
#define SWIFT_INTERNAL_H

#include "../swift.h"

#define SWIFT_EXPORT(name) __attribute__((export_name(name)))

/* list<T>, as a call returns it. */
typedef struct swift_list {
    const void *items;
    size_t count;
} swift_list;

/* result<list<T>, string> and result<_, string>: both payloads are a pointer and a length. */
typedef struct swift_result {
    uint8_t failed;
    swift_list payload;
} swift_result;

const swift_result *swift_ok(const void *items, size_t count);
const swift_result *swift_failed(swift_text reason);

/* A copy in memory that the instance owns. */
swift_text swift_copy(swift_text text);

/* The result of `configure` with the user's settings, a JSON object; NULL when the settings were fine. */
const swift_result *swift_configure(void *(*configure)(swift_settings *), swift_text config, void **self);

/* The same where the tokenizer's special tokens are among the settings. */
const swift_result *swift_configure_template(void *(*configure)(swift_settings *), swift_text config, void **self);

/* Between these two `swift_alloc` gives memory that the next `swift_region_begin` takes back. */
void swift_region_begin(void);
void swift_region_end(void);

/* The result for a name that is not one of `names`. */
const swift_result *swift_unknown(const char *kind, swift_text name, const char *const *names, size_t count);

_Static_assert(sizeof(size_t) == 4 && sizeof(void *) == 4, "plugins are built for wasm32");
_Static_assert(sizeof(swift_result) == 12 && offsetof(swift_result, payload) == 4, "result");

#endif
