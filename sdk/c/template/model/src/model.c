/* A model family: grouped-query attention, SwiGLU, RMS norms before each half of a block. */
#include <math.h>

#include "swift.h"
#include "swift-model.h"

/* What the config says, read and checked once. */
typedef struct model {
    uint32_t vocabulary, width, intermediate, layers, heads, key_heads, head_dim;
    double eps;
    swift_rope rope;
} model;

static model read_config(swift_config config) {
    /* Nothing that changes the mathematics is ignored: name here what the family reads itself. */
    swift_config_refuse_all_but(config, NULL);
    uint32_t width = swift_config_size(config, "hidden_size"), heads = swift_config_size(config, "num_attention_heads");
    uint32_t head_dim = swift_config_size_or(config, "head_dim", width / heads);
    return (model){
        .vocabulary = swift_config_size(config, "vocab_size"),
        .width = width,
        .intermediate = swift_config_size(config, "intermediate_size"),
        .layers = swift_config_size(config, "num_hidden_layers"),
        .heads = heads,
        .key_heads = swift_config_size_or(config, "num_key_value_heads", heads),
        .head_dim = head_dim,
        .eps = swift_config_number_or(config, "rms_norm_eps", 1e-6),
        .rope = swift_rope_of(config, head_dim),
    };
}

static swift_tensor attention(swift_graph *g, const model *m, swift_tensor x, swift_tensor positions) {
    uint32_t heads = m->heads, key_heads = m->key_heads, dim = m->head_dim;
    swift_tensor q = swift_reshape(g, swift_linear(g, "q_proj", x, heads * dim, false), SWIFT_SHAPE(heads, dim));
    swift_tensor k = swift_reshape(g, swift_linear(g, "k_proj", x, key_heads * dim, false), SWIFT_SHAPE(key_heads, dim));
    swift_tensor v = swift_reshape(g, swift_linear(g, "v_proj", x, key_heads * dim, false), SWIFT_SHAPE(key_heads, dim));
    q = swift_rotate(g, q, positions, &m->rope);
    k = swift_rotate(g, k, positions, &m->rope);
    swift_tensor mixed = swift_attention(g, q, k, v, swift_causal_mask(g), 1 / sqrt(dim), SWIFT_NO_OPTIONS);
    return swift_linear(g, "o_proj", swift_reshape(g, mixed, SWIFT_SHAPE(heads * dim)), m->width, false);
}

static swift_tensor mlp(swift_graph *g, const model *m, swift_tensor x) {
    swift_tensor gate = swift_linear(g, "gate_proj", x, m->intermediate, false);
    swift_tensor up = swift_linear(g, "up_proj", x, m->intermediate, false);
    return swift_linear(g, "down_proj", swift_glu(g, gate, up, "silu"), m->width, false);
}

static swift_tensor block(swift_graph *g, const model *m, swift_tensor x, swift_tensor positions) {
    swift_tensor normed = swift_rms_norm(g, "input_layernorm", x, m->eps, SWIFT_NO_OPTIONS);
    swift_enter(g, "self_attn");
    swift_tensor change = attention(g, m, normed, positions);
    swift_leave(g);
    x = swift_add(g, x, change);
    normed = swift_rms_norm(g, "post_attention_layernorm", x, m->eps, SWIFT_NO_OPTIONS);
    swift_enter(g, "mlp");
    change = mlp(g, m, normed);
    swift_leave(g);
    return swift_add(g, x, change);
}

static swift_error build(swift_graph *g, swift_config config) {
    model m = read_config(config);
    if (swift_config_error(config)) return swift_config_error(config);
    swift_tensor tokens, positions;
    swift_param embedding;
    swift_text_inputs(g, &tokens, &positions);
    swift_enter(g, "model");
    swift_tensor x = swift_embed(g, "embed_tokens", tokens, m.vocabulary, m.width, &embedding);
    for (uint32_t layer = 0; layer < m.layers; layer++) {
        swift_enter_block(g, "layers", layer);
        x = block(g, &m, x, positions);
        swift_leave(g);
    }
    x = swift_rms_norm(g, "norm", x, m.eps, SWIFT_NO_OPTIONS);
    swift_leave(g);
    swift_output(g, "hidden", x);
    swift_param head = swift_head_table(g, config, embedding, m.vocabulary, m.width);
    swift_output(g, "logits", swift_logits(g, x, head, SWIFT_NO_OPTIONS));
    return SWIFT_OK;
}

static const char *const model_types[] = {"tiny", NULL};
static const char *const architectures[] = {"TinyForCausalLM", NULL};

SWIFT_FAMILY(.model_types = model_types, .architectures = architectures, .build = build);
