/* The contract `swift:reward`, for the functions that were named with SWIFT_REWARD. */
#include "internal.h"

#include <math.h>

_Static_assert(sizeof(swift_sample) == 40 && offsetof(swift_sample, solution) == 20, "sample");
_Static_assert(sizeof(swift_outcome) == 16 && offsetof(swift_outcome, value) == 8, "outcome");

typedef struct info {
    swift_text name, summary;
    bool whole_batch;
} info;
_Static_assert(sizeof(info) == 20, "info");

enum { SCORE, NO_SCORE, FAILED };

static swift_reward *first, **end = &first;
static size_t count;
static const swift_reward *chosen;
static void *self;

void swift_add_reward(swift_reward *reward) {
    *end = reward;
    end = &reward->next;
    count++;
}

swift_outcome swift_score(double score) { return (swift_outcome){SCORE, {.score = score}}; }

swift_outcome swift_no_score(void) { return (swift_outcome){NO_SCORE, {.score = 0}}; }

swift_outcome swift_fail(swift_text reason) { return (swift_outcome){FAILED, {.reason = swift_copy(reason)}}; }

SWIFT_EXPORT("swift:reward/rewards@0.1.0#rewards")
const swift_list *swift_export_rewards(void) {
    static swift_list list;
    info *infos = swift_alloc(count, sizeof *infos), *next = infos;
    for (const swift_reward *reward = first; reward; reward = reward->next) {
        *next++ = (info){swift_text_of(reward->name), swift_text_of(reward->summary), reward->whole_batch};
    }
    list = (swift_list){infos, count};
    return &list;
}

SWIFT_EXPORT("swift:reward/rewards@0.1.0#configure")
const swift_result *swift_export_reward_configure(const char *name, size_t name_length, const char *config, size_t config_length) {
    swift_text wanted = {name, name_length};
    const char **names = swift_alloc(count, sizeof *names);
    size_t known = 0;
    for (const swift_reward *reward = first; reward; reward = reward->next) {
        names[known++] = reward->name;
        if (!swift_equal(swift_text_of(reward->name), wanted)) continue;
        if (!reward->score == !reward->score_batch) {
            return swift_failed(SWIFT_JOIN(SWIFT_TEXT("the reward `"), wanted, SWIFT_TEXT("` needs `.score` or `.score_batch`, one of them")));
        }
        chosen = reward;
        const swift_result *failed = swift_configure(reward->configure, (swift_text){config, config_length}, &self);
        return failed ? failed : swift_ok(NULL, 0);
    }
    return swift_unknown("reward", wanted, names, known);
}

SWIFT_EXPORT("swift:reward/rewards@0.1.0#score")
const swift_result *swift_export_reward_score(const swift_sample *samples, size_t length, uint64_t step, uint64_t max_steps,
                                              double epoch, uint64_t seed, const char *extra, size_t extra_length) {
    if (!chosen) return swift_failed(SWIFT_TEXT("`score` was called before `configure`"));
    swift_state state = {step, max_steps, epoch, seed, {extra, extra_length}};
    swift_outcome *outcomes = swift_alloc(length, sizeof *outcomes);
    if (chosen->score_batch) {
        for (size_t i = 0; i < length; i++) outcomes[i] = swift_fail(SWIFT_TEXT("`score_batch` gave it no outcome"));
        chosen->score_batch(self, samples, length, &state, outcomes);
    } else {
        for (size_t i = 0; i < length; i++) outcomes[i] = chosen->score(self, &samples[i], &state);
    }
    for (size_t i = 0; i < length; i++) {
        if (outcomes[i].what == SCORE && !isfinite(outcomes[i].value.score)) {
            outcomes[i] = swift_fail(SWIFT_TEXT("the score is not a finite number"));
        }
    }
    return swift_ok(outcomes, length);
}
