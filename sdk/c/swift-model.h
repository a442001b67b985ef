/* swift-model.h: model families. Include it beside swift.h, and name the family with SWIFT_FAMILY.
 *
 * A family reads config.json, and traces the network once into a graph. No call here fails: one that the host refuses (a shape
 * that does not fit, a tensor that the checkpoint lacks) ends the trace there, and the host reports it with the scope and the op. */
#ifndef SWIFT_MODEL_H
#define SWIFT_MODEL_H

#include "swift.h"

/* -- config.json ------------------------------------------------------------------------------------------------------ */

/* The config, or an object inside it. For every reader a null counts as an absent key. The first value that cannot be read is
 * kept as the config's error, with the key, what stands there and what is needed; readers then give something harmless. */
typedef struct swift_config {
    const swift_json *object;
    const char *path;   /* keys that lead here, each followed by a dot */
    swift_error *error; /* of the whole config */
} swift_config;

bool swift_config_has(swift_config config, const char *key);
/* A positive whole number: a width, a count. */
uint32_t swift_config_size(swift_config config, const char *key);
uint32_t swift_config_size_or(swift_config config, const char *key, uint32_t fallback);
double swift_config_number(swift_config config, const char *key);
double swift_config_number_or(swift_config config, const char *key, double fallback);
bool swift_config_flag_or(swift_config config, const char *key, bool fallback);
swift_text swift_config_text_or(swift_config config, const char *key, const char *fallback);
/* An object inside this one; false for an absent or empty one. */
bool swift_config_section(swift_config config, const char *key, swift_config *section);
/* The activation function under `key` by the name that the host gives it; absent means silu. */
const char *swift_config_activation(swift_config config, const char *key);
/* Keeps an error about this key: config.json: `key` is VALUE, WHAT. */
void swift_config_refuse(swift_config config, const char *key, const char *what);
/* Refuses every key that changes the mathematics and stands at a value that is not neutral, but for `built`, which ends in NULL
 * and may be NULL: those that the family reads itself. Call it first: then nothing of the config is ignored in silence. */
void swift_config_refuse_all_but(swift_config config, const char *const *built);
/* The first error so far, or SWIFT_OK. Ask for it before the graph is built with what was read. */
swift_error swift_config_error(swift_config config);

/* -- The graph -------------------------------------------------------------------------------------------------------- */

typedef struct swift_tensor { /* a value: shape [rows, ...tail] */
    uint32_t id;
} swift_tensor;
typedef struct swift_param { /* one tensor of the checkpoint; using it twice ties it */
    uint32_t id;
} swift_param;
typedef struct swift_mask { /* which rows of its own sequence a row may attend to */
    uint32_t id;
} swift_mask;
typedef struct swift_graph swift_graph;

/* Axes after the rows: SWIFT_SHAPE(heads, width). */
typedef struct swift_shape {
    const uint32_t *axes;
    size_t count;
} swift_shape;
#define SWIFT_SHAPE(...) \
    ((swift_shape){(const uint32_t[]){__VA_ARGS__}, sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t)})

/* An option of one call, by its name in the contract: SWIFT_OPTIONS(swift_number_option("soft-cap", 30)). */
typedef struct swift_option {
    swift_text name;
    uint8_t type;
    union {
        double number;
        swift_text text;
        bool flag;
    } value;
} swift_option;
typedef struct swift_options {
    const swift_option *items;
    size_t count;
} swift_options;
swift_option swift_number_option(const char *name, double number);
swift_option swift_text_option(const char *name, swift_text text);
swift_option swift_flag_option(const char *name, bool flag);
#define SWIFT_OPTIONS(...)                                                                                                 \
    ((swift_options){(const swift_option[]){__VA_ARGS__}, sizeof((const swift_option[]){__VA_ARGS__}) / sizeof(swift_option)})
#define SWIFT_NO_OPTIONS ((swift_options){NULL, 0})

/* The inputs of a language model: tokens [rows] and positions [rows]. */
void swift_text_inputs(swift_graph *g, swift_tensor *tokens, swift_tensor *positions);
/* Opens a scope: its path is added to the names of parameters until `swift_leave`. */
void swift_enter(swift_graph *g, const char *path);
/* The same as block `index` of the list of layers `path`: a cut for recomputation and pipelining. */
void swift_enter_block(swift_graph *g, const char *path, uint32_t index);
void swift_leave(swift_graph *g);
/* Publishes a result: "hidden", "logits". */
void swift_output(swift_graph *g, const char *name, swift_tensor x);
/* Whether the host knows this function of the contract. */
bool swift_supports(swift_graph *g, const char *op);

/* Whether the checkpoint holds `name` in the current scope. */
bool swift_has(swift_graph *g, const char *name);
/* The checkpoint tensor `name` of the current scope, which must have this shape. */
swift_param swift_parameter(swift_graph *g, const char *name, swift_shape shape);
swift_tensor swift_read(swift_graph *g, swift_param parameter);

/* An embedding `name` with weight [vocabulary, width]: [rows] -> [rows, width], and its table for a tied head. */
swift_tensor swift_embed(swift_graph *g, const char *name, swift_tensor ids, uint32_t vocabulary, uint32_t width, swift_param *table);
/* A linear layer `name` with weight [out, in] and perhaps a bias [out]. */
swift_tensor swift_linear(swift_graph *g, const char *name, swift_tensor x, uint32_t out, bool bias);
/* An RMS norm `name` over the last axis; options: "offset". */
swift_tensor swift_rms_norm(swift_graph *g, const char *name, swift_tensor x, double eps, swift_options options);
swift_tensor swift_layer_norm(swift_graph *g, const char *name, swift_tensor x, double eps, bool bias);
swift_tensor swift_l2_norm(swift_graph *g, swift_tensor x, double eps);
swift_tensor swift_softmax(swift_graph *g, swift_tensor x);
/* The vocabulary head; options: "scale", "soft-cap". */
swift_tensor swift_logits(swift_graph *g, swift_tensor x, swift_param table, swift_options options);
/* The table of the head: `lm_head.weight`, or `embedding` where the two are tied: when the config says so, or says nothing and
 * the checkpoint has no head. */
swift_param swift_head_table(swift_graph *g, swift_config config, swift_param embedding, uint32_t vocabulary, uint32_t width);

swift_mask swift_causal_mask(swift_graph *g);
swift_mask swift_full_mask(swift_graph *g);
/* A row sees itself and the `window` - 1 rows before it; a window of 0 is the causal mask. */
swift_mask swift_window_mask(swift_graph *g, uint32_t window);
/* q [rows, hq, d], k [rows, hk, d], v [rows, hk, dv] -> [rows, hq, dv]; hk divides hq. Option: "soft-cap". */
swift_tensor swift_attention(swift_graph *g, swift_tensor q, swift_tensor k, swift_tensor v, swift_mask mask, double scale,
                             swift_options options);

swift_tensor swift_scalar(swift_graph *g, double x);
/* Pointwise functions by their names in the contract: "silu", "add". */
swift_tensor swift_unary(swift_graph *g, const char *op, swift_tensor x);
swift_tensor swift_binary(swift_graph *g, const char *op, swift_tensor a, swift_tensor b);
swift_tensor swift_add(swift_graph *g, swift_tensor a, swift_tensor b);
swift_tensor swift_mul(swift_graph *g, swift_tensor a, swift_tensor b);
/* activation(gate) * up */
swift_tensor swift_glu(swift_graph *g, swift_tensor gate, swift_tensor up, const char *activation);
swift_tensor swift_reshape(swift_graph *g, swift_tensor x, swift_shape tail);
/* Pieces of these sizes along tail axis `axis`, into `pieces`. */
void swift_split(swift_graph *g, swift_tensor x, uint32_t axis, swift_shape sizes, swift_tensor *pieces);
swift_tensor swift_concat(swift_graph *g, const swift_tensor *xs, size_t count, uint32_t axis);
/* The axes after the rows. */
swift_shape swift_tail(swift_graph *g, swift_tensor x);

/* A rotary embedding: how many dimensions of a head it rotates, its base, and its scaling. */
typedef struct swift_rope {
    uint32_t dims;
    double theta;
    swift_option options[12];
    size_t count;
} swift_rope;
/* As the config describes it (`rope_parameters`, or `rope_theta` and `rope_scaling`), for heads of `head_dim` dimensions. What is
 * not built is the config's error. */
swift_rope swift_rope_of(swift_config config, uint32_t head_dim);
/* Rotates heads [rows, heads, d] by positions [rows]. */
swift_tensor swift_rotate(swift_graph *g, swift_tensor x, swift_tensor positions, const swift_rope *rope);

/* -- Families --------------------------------------------------------------------------------------------------------- */

/* Models that share one network. It must be pure: everything follows from the config and the names in the checkpoint. */
typedef struct swift_family {
    const char *const *model_types;   /* of config.json that it builds, ending in NULL */
    const char *const *architectures; /* asked only when a config has no model_type, ending in NULL; optional */
    /* Traces the network: it publishes "hidden" [rows, width] and "logits" [rows, vocabulary]. An error is shown to the user. */
    swift_error (*build)(swift_graph *g, swift_config config);
    struct swift_family *next; /* the SDK's */
} swift_family;

/* SWIFT_FAMILY(.model_types = model_types, .build = build); */
#define SWIFT_FAMILY(...) SWIFT_REGISTER(family, __VA_ARGS__)
void swift_add_family(swift_family *family);

#endif
