/* The contract `swift:metric`, for the metrics that were named with SWIFT_METRIC. */
#include "internal.h"

_Static_assert(sizeof(swift_answer) == 12 && offsetof(swift_answer, text) == 4, "answer");
_Static_assert(sizeof(swift_example) == 28 && offsetof(swift_example, columns) == 20, "example");

typedef struct info {
    swift_text name, summary;
    bool higher_is_better;
} info;
_Static_assert(sizeof(info) == 20, "info");

typedef struct named {
    swift_text name;
    double value;
} named;
_Static_assert(sizeof(named) == 16, "named number");

struct swift_numbers {
    named *items;
    size_t count, room;
};

static swift_metric *first, **end = &first;
static size_t count;
static const swift_metric *chosen;
static void *self;

void swift_add_metric(swift_metric *metric) {
    *end = metric;
    end = &metric->next;
    count++;
}

void swift_number(swift_numbers *numbers, const char *name, double value) {
    if (numbers->count == numbers->room) {
        size_t room = numbers->room ? numbers->room * 2 : 8;
        named *items = swift_alloc(room, sizeof *items);
        for (size_t i = 0; i < numbers->count; i++) items[i] = numbers->items[i];
        numbers->items = items;
        numbers->room = room;
    }
    numbers->items[numbers->count++] = (named){swift_copy(swift_text_of(name)), value};
}

SWIFT_EXPORT("swift:metric/metrics@0.1.0#metrics")
const swift_list *swift_export_metrics(void) {
    static swift_list list;
    info *infos = swift_alloc(count, sizeof *infos), *next = infos;
    for (const swift_metric *metric = first; metric; metric = metric->next) {
        *next++ = (info){swift_text_of(metric->name), swift_text_of(metric->summary), metric->higher_is_better};
    }
    list = (swift_list){infos, count};
    return &list;
}

SWIFT_EXPORT("swift:metric/metrics@0.1.0#configure")
const swift_result *swift_export_metric_configure(const char *name, size_t name_length, const char *config, size_t config_length) {
    swift_text wanted = {name, name_length};
    const char **names = swift_alloc(count, sizeof *names);
    size_t known = 0;
    for (const swift_metric *metric = first; metric; metric = metric->next) {
        names[known++] = metric->name;
        if (!swift_equal(swift_text_of(metric->name), wanted)) continue;
        if (!metric->update || !metric->state || !metric->merge || !metric->compute) {
            return swift_failed(SWIFT_JOIN(SWIFT_TEXT("the metric `"), wanted, SWIFT_TEXT("` needs `.update`, `.state`, `.merge` and `.compute`")));
        }
        chosen = metric;
        const swift_result *failed = swift_configure(metric->configure, (swift_text){config, config_length}, &self);
        return failed ? failed : swift_ok(NULL, 0);
    }
    return swift_unknown("metric", wanted, names, known);
}

static const swift_result *unconfigured(void) {
    return swift_failed(SWIFT_TEXT("a metric was used before `configure`"));
}

static const swift_result *ended(swift_error error) {
    return error ? swift_failed(swift_text_of(error)) : swift_ok(NULL, 0);
}

SWIFT_EXPORT("swift:metric/metrics@0.1.0#update")
const swift_result *swift_export_metric_update(const swift_example *examples, size_t length) {
    return chosen ? ended(chosen->update(self, examples, length)) : unconfigured();
}

SWIFT_EXPORT("swift:metric/metrics@0.1.0#state")
const swift_result *swift_export_metric_state(void) {
    if (!chosen) return unconfigured();
    swift_text state = chosen->state(self);
    return swift_ok(state.data, state.length);
}

SWIFT_EXPORT("swift:metric/metrics@0.1.0#merge")
const swift_result *swift_export_metric_merge(const char *state, size_t length) {
    return chosen ? ended(chosen->merge(self, (swift_text){state, length})) : unconfigured();
}

SWIFT_EXPORT("swift:metric/metrics@0.1.0#compute")
const swift_result *swift_export_metric_compute(void) {
    if (!chosen) return unconfigured();
    swift_numbers numbers = {0};
    swift_error error = chosen->compute(self, &numbers);
    return error ? ended(error) : swift_ok(numbers.items, numbers.count);
}
