/* The interface `preprocessors` of `swift:dataset`, for the functions that were named with SWIFT_PREPROCESSOR. */
#include "internal.h"

typedef struct info {
    swift_text name, summary;
    swift_list datasets;
} info;
_Static_assert(sizeof(info) == 24, "info");

static swift_preprocessor *first, **end = &first;
static size_t count;
static const swift_preprocessor *chosen;
static void *self;

void swift_add_preprocessor(swift_preprocessor *preprocessor) {
    *end = preprocessor;
    end = &preprocessor->next;
    count++;
}

static swift_list ids(const char *const *datasets) {
    size_t length = 0;
    while (datasets && datasets[length]) length++;
    swift_text *texts = swift_alloc(length, sizeof *texts);
    for (size_t i = 0; i < length; i++) texts[i] = swift_text_of(datasets[i]);
    return (swift_list){texts, length};
}

SWIFT_EXPORT("swift:dataset/preprocessors@0.1.0#preprocessors")
const swift_list *swift_export_preprocessors(void) {
    static swift_list list;
    info *infos = swift_alloc(count, sizeof *infos), *next = infos;
    for (const swift_preprocessor *one = first; one; one = one->next) {
        *next++ = (info){swift_text_of(one->name), swift_text_of(one->summary), ids(one->datasets)};
    }
    list = (swift_list){infos, count};
    return &list;
}

SWIFT_EXPORT("swift:dataset/preprocessors@0.1.0#configure")
const swift_result *swift_export_preprocessor_configure(const char *name, size_t name_length, const char *config, size_t config_length) {
    swift_text wanted = {name, name_length};
    const char **names = swift_alloc(count, sizeof *names);
    size_t known = 0;
    for (const swift_preprocessor *one = first; one; one = one->next) {
        names[known++] = one->name;
        if (!swift_equal(swift_text_of(one->name), wanted)) continue;
        if (!one->process) {
            return swift_failed(SWIFT_JOIN(SWIFT_TEXT("the preprocessor `"), wanted, SWIFT_TEXT("` needs `.process`")));
        }
        chosen = one;
        const swift_result *failed = swift_configure(one->configure, (swift_text){config, config_length}, &self);
        return failed ? failed : swift_ok(NULL, 0);
    }
    return swift_unknown("preprocessor", wanted, names, known);
}

SWIFT_EXPORT("swift:dataset/preprocessors@0.1.0#process")
const swift_result *swift_export_preprocessor_process(const swift_text *rows, size_t length) {
    if (!chosen) return swift_failed(SWIFT_TEXT("`process` was called before `configure`"));
    swift_rows *outcomes = swift_alloc(length, sizeof *outcomes);
    for (size_t i = 0; i < length; i++) {
        const swift_json *row = swift_json_parse(rows[i]);
        if (!row || row->type != SWIFT_JSON_OBJECT) return swift_failed(SWIFT_TEXT("a source row is not a JSON object"));
        outcomes[i] = chosen->process(self, row);
    }
    return swift_ok(outcomes, length);
}
