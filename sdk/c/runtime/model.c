/* The contract `swift:model`, for the families that were named with SWIFT_FAMILY: the graph's builder, and what the host asks. */
#include "internal.h"

#include "../swift-model.h"

#include <string.h>

_Static_assert(sizeof(swift_option) == 24 && offsetof(swift_option, value) == 16, "option");

#define METHOD(name) __attribute__((import_module("swift:model/graph@0.1.0"), import_name("[method]builder." name)))
__attribute__((import_module("swift:model/graph@0.1.0"), import_name("[resource-drop]builder"))) void host_drop(uint32_t);
METHOD("rows") uint32_t host_rows(uint32_t, const char *, size_t);
METHOD("input") uint32_t host_input(uint32_t, const char *, size_t, uint32_t, uint32_t, const uint32_t *, size_t);
METHOD("enter") void host_enter(uint32_t, const char *, size_t, const char *, size_t);
METHOD("exit") void host_exit(uint32_t);
METHOD("output") void host_output(uint32_t, const char *, size_t, uint32_t);
METHOD("shape") void host_shape(uint32_t, uint32_t, swift_shape *);
METHOD("has") uint32_t host_has(uint32_t, const char *, size_t);
METHOD("load") uint32_t host_load(uint32_t, const char *, size_t, const uint32_t *, size_t);
METHOD("read") uint32_t host_read(uint32_t, uint32_t);
METHOD("embed") uint32_t host_embed(uint32_t, uint32_t, uint32_t);
METHOD("linear") uint32_t host_linear(uint32_t, uint32_t, uint32_t, uint32_t, uint32_t);
METHOD("logits") uint32_t host_logits(uint32_t, uint32_t, uint32_t, const swift_option *, size_t);
METHOD("rms-norm") uint32_t host_rms_norm(uint32_t, uint32_t, uint32_t, uint32_t, float, const swift_option *, size_t);
METHOD("layer-norm") uint32_t host_layer_norm(uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, float);
METHOD("l2-norm") uint32_t host_l2_norm(uint32_t, uint32_t, float);
METHOD("softmax") uint32_t host_softmax(uint32_t, uint32_t);
METHOD("rope") uint32_t host_rope(uint32_t, uint32_t, uint32_t, uint32_t, double, const swift_option *, size_t);
METHOD("mask-causal") uint32_t host_mask_causal(uint32_t);
METHOD("mask-all") uint32_t host_mask_all(uint32_t);
METHOD("mask-window") uint32_t host_mask_window(uint32_t, uint32_t, uint32_t);
METHOD("attention")
uint32_t host_attention(uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, float, const swift_option *, size_t);
METHOD("scalar") uint32_t host_scalar(uint32_t, double);
METHOD("unary") uint32_t host_unary(uint32_t, const char *, size_t, uint32_t);
METHOD("binary") uint32_t host_binary(uint32_t, const char *, size_t, uint32_t, uint32_t);
METHOD("glu") uint32_t host_glu(uint32_t, uint32_t, uint32_t, const char *, size_t);
METHOD("reshape") uint32_t host_reshape(uint32_t, uint32_t, const uint32_t *, size_t);
METHOD("split") void host_split(uint32_t, uint32_t, uint32_t, const uint32_t *, size_t, swift_shape *);
METHOD("concat") uint32_t host_concat(uint32_t, const swift_tensor *, size_t, uint32_t);
METHOD("supports") uint32_t host_supports(uint32_t, const char *, size_t);

enum { DEPTH = 32, INT32 = 2, NUMBER = 0, TEXT = 2, FLAG = 3 };

struct swift_graph {
    uint32_t host;
    swift_text paths[DEPTH]; /* of the scopes that are open, from the outermost on */
    size_t depth;
};

#define SPREAD(text) (text).data, (text).length

static swift_text full(swift_graph *g, const char *name) {
    swift_text own = swift_text_of(name);
    return g->depth ? SWIFT_JOIN(g->paths[g->depth - 1], SWIFT_TEXT("."), own) : own;
}

static swift_tensor tensor(uint32_t id) { return (swift_tensor){id}; }

/* -- Options -------------------------------------------------------------------------------------------------------- */

swift_option swift_number_option(const char *name, double number) {
    return (swift_option){swift_text_of(name), NUMBER, {.number = number}};
}

swift_option swift_text_option(const char *name, swift_text text) {
    return (swift_option){swift_text_of(name), TEXT, {.text = text}};
}

swift_option swift_flag_option(const char *name, bool flag) {
    return (swift_option){swift_text_of(name), FLAG, {.flag = flag}};
}

/* -- Structure ------------------------------------------------------------------------------------------------------ */

void swift_text_inputs(swift_graph *g, swift_tensor *tokens, swift_tensor *positions) {
    uint32_t rows = host_rows(g->host, "text", 4);
    *tokens = tensor(host_input(g->host, "tokens", 6, rows, INT32, NULL, 0));
    *positions = tensor(host_input(g->host, "positions", 9, rows, INT32, NULL, 0));
}

static void enter(swift_graph *g, swift_text path, const char *kind) {
    if (g->depth == DEPTH) SWIFT_PANIC(SWIFT_TEXT("scopes nest too deeply: is a swift_leave missing?"));
    host_enter(g->host, SPREAD(path), SPREAD(swift_text_of(kind)));
    g->paths[g->depth] = g->depth ? SWIFT_JOIN(g->paths[g->depth - 1], SWIFT_TEXT("."), path) : path;
    g->depth++;
}

void swift_enter(swift_graph *g, const char *path) { enter(g, swift_text_of(path), ""); }

void swift_enter_block(swift_graph *g, const char *path, uint32_t index) {
    enter(g, SWIFT_JOIN(swift_text_of(path), SWIFT_TEXT("."), swift_integer(index)), "block");
}

void swift_leave(swift_graph *g) {
    if (g->depth == 0) SWIFT_PANIC(SWIFT_TEXT("swift_leave without a scope that is open"));
    host_exit(g->host);
    g->depth--;
}

void swift_output(swift_graph *g, const char *name, swift_tensor x) { host_output(g->host, SPREAD(swift_text_of(name)), x.id); }

bool swift_supports(swift_graph *g, const char *op) { return host_supports(g->host, SPREAD(swift_text_of(op))) != 0; }

/* -- Parameters ----------------------------------------------------------------------------------------------------- */

bool swift_has(swift_graph *g, const char *name) { return host_has(g->host, SPREAD(full(g, name))) != 0; }

static swift_param load(swift_graph *g, swift_text name, swift_shape shape) {
    return (swift_param){host_load(g->host, SPREAD(name), shape.axes, shape.count)};
}

swift_param swift_parameter(swift_graph *g, const char *name, swift_shape shape) { return load(g, full(g, name), shape); }

static swift_param part(swift_graph *g, const char *name, const char *part, swift_shape shape) {
    return load(g, SWIFT_JOIN(full(g, name), swift_text_of(part)), shape);
}

swift_tensor swift_read(swift_graph *g, swift_param parameter) { return tensor(host_read(g->host, parameter.id)); }

/* -- Ops ------------------------------------------------------------------------------------------------------------ */

swift_shape swift_tail(swift_graph *g, swift_tensor x) {
    swift_shape shape;
    host_shape(g->host, x.id, &shape);
    return shape;
}

static uint32_t last(swift_graph *g, swift_tensor x) {
    swift_shape tail = swift_tail(g, x);
    return tail.count ? tail.axes[tail.count - 1] : 1;
}

swift_tensor swift_embed(swift_graph *g, const char *name, swift_tensor ids, uint32_t vocabulary, uint32_t width, swift_param *table) {
    swift_param weight = part(g, name, ".weight", SWIFT_SHAPE(vocabulary, width));
    if (table) *table = weight;
    return tensor(host_embed(g->host, ids.id, weight.id));
}

swift_tensor swift_linear(swift_graph *g, const char *name, swift_tensor x, uint32_t out, bool bias) {
    swift_param weight = part(g, name, ".weight", SWIFT_SHAPE(out, last(g, x)));
    uint32_t id = bias ? part(g, name, ".bias", SWIFT_SHAPE(out)).id : 0;
    return tensor(host_linear(g->host, x.id, weight.id, bias, id));
}

swift_tensor swift_rms_norm(swift_graph *g, const char *name, swift_tensor x, double eps, swift_options options) {
    swift_param weight = part(g, name, ".weight", SWIFT_SHAPE(last(g, x)));
    return tensor(host_rms_norm(g->host, x.id, 1, weight.id, (float)eps, options.items, options.count));
}

swift_tensor swift_layer_norm(swift_graph *g, const char *name, swift_tensor x, double eps, bool bias) {
    uint32_t width = last(g, x);
    swift_param weight = part(g, name, ".weight", SWIFT_SHAPE(width));
    uint32_t id = bias ? part(g, name, ".bias", SWIFT_SHAPE(width)).id : 0;
    return tensor(host_layer_norm(g->host, x.id, 1, weight.id, bias, id, (float)eps));
}

swift_tensor swift_l2_norm(swift_graph *g, swift_tensor x, double eps) { return tensor(host_l2_norm(g->host, x.id, (float)eps)); }

swift_tensor swift_softmax(swift_graph *g, swift_tensor x) { return tensor(host_softmax(g->host, x.id)); }

swift_tensor swift_logits(swift_graph *g, swift_tensor x, swift_param table, swift_options options) {
    return tensor(host_logits(g->host, x.id, table.id, options.items, options.count));
}

swift_param swift_head_table(swift_graph *g, swift_config config, swift_param embedding, uint32_t vocabulary, uint32_t width) {
    bool tied = swift_config_flag_or(config, "tie_word_embeddings", !swift_has(g, "lm_head.weight"));
    return tied ? embedding : swift_parameter(g, "lm_head.weight", SWIFT_SHAPE(vocabulary, width));
}

swift_mask swift_causal_mask(swift_graph *g) { return (swift_mask){host_mask_causal(g->host)}; }

swift_mask swift_full_mask(swift_graph *g) { return (swift_mask){host_mask_all(g->host)}; }

swift_mask swift_window_mask(swift_graph *g, uint32_t window) {
    return window ? (swift_mask){host_mask_window(g->host, window - 1, 0)} : swift_causal_mask(g);
}

swift_tensor swift_attention(swift_graph *g, swift_tensor q, swift_tensor k, swift_tensor v, swift_mask mask, double scale,
                             swift_options options) {
    return tensor(host_attention(g->host, q.id, k.id, v.id, mask.id, (float)scale, options.items, options.count));
}

swift_tensor swift_scalar(swift_graph *g, double x) { return tensor(host_scalar(g->host, x)); }

swift_tensor swift_unary(swift_graph *g, const char *op, swift_tensor x) {
    return tensor(host_unary(g->host, SPREAD(swift_text_of(op)), x.id));
}

swift_tensor swift_binary(swift_graph *g, const char *op, swift_tensor a, swift_tensor b) {
    return tensor(host_binary(g->host, SPREAD(swift_text_of(op)), a.id, b.id));
}

swift_tensor swift_add(swift_graph *g, swift_tensor a, swift_tensor b) { return swift_binary(g, "add", a, b); }

swift_tensor swift_mul(swift_graph *g, swift_tensor a, swift_tensor b) { return swift_binary(g, "mul", a, b); }

swift_tensor swift_glu(swift_graph *g, swift_tensor gate, swift_tensor up, const char *activation) {
    return tensor(host_glu(g->host, gate.id, up.id, SPREAD(swift_text_of(activation))));
}

swift_tensor swift_reshape(swift_graph *g, swift_tensor x, swift_shape tail) {
    return tensor(host_reshape(g->host, x.id, tail.axes, tail.count));
}

void swift_split(swift_graph *g, swift_tensor x, uint32_t axis, swift_shape sizes, swift_tensor *pieces) {
    swift_shape answer;
    host_split(g->host, x.id, axis, sizes.axes, sizes.count, &answer);
    for (size_t i = 0; i < answer.count && i < sizes.count; i++) pieces[i] = tensor(answer.axes[i]);
}

swift_tensor swift_concat(swift_graph *g, const swift_tensor *xs, size_t count, uint32_t axis) {
    return tensor(host_concat(g->host, xs, count, axis));
}

swift_tensor swift_rotate(swift_graph *g, swift_tensor x, swift_tensor positions, const swift_rope *rope) {
    return tensor(host_rope(g->host, x.id, positions.id, rope->dims, rope->theta, rope->options, rope->count));
}

/* -- What the host asks ----------------------------------------------------------------------------------------------- */

static swift_family *first, **end = &first;

void swift_add_family(swift_family *family) {
    *end = family;
    end = &family->next;
}

static bool among(const char *const *names, swift_text wanted) {
    for (; names && *names; names++) {
        if (swift_equal(swift_text_of(*names), wanted)) return true;
    }
    return false;
}

/* The family that builds this config, and the name to call it by. It never fails: what cannot be read is not claimed. */
static const swift_family *claimed(const swift_json *config, swift_text *name) {
    const swift_json *type = swift_json_get(config, "model_type"), *architectures = swift_json_get(config, "architectures");
    bool given = type && type->type != SWIFT_JSON_NULL;
    for (const swift_family *one = first; one; one = one->next) {
        if (given && swift_json_text(type, name) && among(one->model_types, *name)) return one;
        if (given || !architectures) continue;
        for (const swift_json *item = architectures->first; item; item = item->next) {
            swift_text architecture;
            if (!swift_json_text(item, &architecture) || !among(one->architectures, architecture)) continue;
            *name = swift_text_of(one->model_types[0]);
            return one;
        }
    }
    return NULL;
}

SWIFT_EXPORT("swift:model/adapter@0.1.0#claims")
const swift_optional_text *swift_export_model_claims(const char *config, size_t length) {
    static swift_optional_text answer;
    const swift_json *object = swift_json_parse((swift_text){config, length});
    answer.given = object && claimed(object, &answer.text) != NULL;
    return &answer;
}

SWIFT_EXPORT("swift:model/adapter@0.1.0#build")
const swift_result *swift_export_model_build(const char *config, size_t length, const char *task, size_t task_length, uint32_t host) {
    const swift_json *object = swift_json_parse((swift_text){config, length});
    swift_text name, wanted = {task, task_length};
    const swift_family *family = object && object->type == SWIFT_JSON_OBJECT ? claimed(object, &name) : NULL;
    swift_error failed = SWIFT_OK;
    if (!family) {
        failed = "config.json: neither `model_type` nor `architectures` is of a family of this plugin";
    } else if (!swift_equal(wanted, SWIFT_TEXT("causal-lm"))) {
        failed = swift_error_of(SWIFT_JOIN(SWIFT_TEXT("the task `"), wanted, SWIFT_TEXT("` is not built; this family builds causal-lm")));
    } else {
        swift_graph g = {.host = host};
        swift_error kept = SWIFT_OK;
        swift_error said = family->build(&g, (swift_config){object, "", &kept});
        failed = kept ? kept : said;
    }
    host_drop(host);
    return failed ? swift_failed(swift_text_of(failed)) : swift_ok(NULL, 0);
}
