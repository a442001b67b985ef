/* A reward: how many of the solution's words the completion has. */
#include <stdlib.h>
#include <string.h>

#include "swift.h"

typedef struct overlap {
    bool lowercase;
} overlap;

static void *configure(swift_settings *settings) {
    overlap *self = swift_alloc(1, sizeof *self);
    self->lowercase = swift_setting_bool(settings, "lowercase", true);
    return self;
}

static int compare(const void *one, const void *other) {
    const swift_text *a = one, *b = other;
    int order = memcmp(a->data, b->data, a->length < b->length ? a->length : b->length);
    return order ? order : (a->length > b->length) - (a->length < b->length);
}

/* The distinct words of a text, sorted; gives their number. */
static size_t distinct_words(swift_text text, swift_text **words) {
    size_t count = 0, distinct = 0;
    *words = swift_alloc(text.length / 2 + 1, sizeof **words);
    while (swift_next_word(&text, &(*words)[count])) count++;
    qsort(*words, count, sizeof **words, compare);
    for (size_t i = 0; i < count; i++) {
        if (i == 0 || !swift_equal((*words)[i], (*words)[i - 1])) (*words)[distinct++] = (*words)[i];
    }
    return distinct;
}

static swift_outcome score(const void *data, const swift_sample *sample, const swift_state *state) {
    (void)state;
    const overlap *self = data;
    if (!sample->solution.given) return swift_no_score();
    swift_text solution = sample->solution.text, completion = sample->completion;
    if (self->lowercase) solution = swift_lowercase(solution), completion = swift_lowercase(completion);

    swift_text *wanted, word;
    size_t all = distinct_words(solution, &wanted), missing = all;
    if (all == 0) return swift_no_score();
    bool *found = swift_alloc(all, sizeof *found);
    while (missing > 0 && swift_next_word(&completion, &word)) {
        const swift_text *match = bsearch(&word, wanted, all, sizeof *wanted, compare);
        if (!match || found[match - wanted]) continue;
        found[match - wanted] = true;
        missing--;
    }
    return swift_score((double)(all - missing) / (double)all);
}

SWIFT_REWARD(.name = "overlap", .summary = "Share of the solution's words that the completion has",
             .configure = configure, .score = score);
