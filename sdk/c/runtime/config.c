/* config.json with types, and the rotary embedding that it describes. No graph is known here. */
#include "internal.h"

#include "../swift-model.h"

#include <string.h>

/* Keys of well-known configs that change what a decoder computes. A family names those it builds and refuses the rest, see
 * swift_config_refuse_all_but. Neutral: null, false, 0, empty; for a multiplier 1. The list is that of the SDK in Rust. */
static const char *const changes_the_model[] = {
    /* storage that is not plain tensors */
    "quantization_config", "compression_config",
    /* biases, norms and activations */
    "attention_bias", "attention_out_bias", "mlp_bias", "qkv_bias", "use_bias", "lm_head_bias", "use_qk_norm", "qk_norm",
    "qk_layernorm", "clip_qkv", "sandwich_norm",
    /* which rows attend to which, and how */
    "sliding_window", "use_sliding_window", "layer_types", "attention_chunk_size", "attn_logit_softcapping",
    "final_logit_softcapping", "logits_soft_cap", "attn_temperature_tuning", "attention_multiplier", "query_pre_attn_scalar",
    "attention_sinks", "use_alibi", "alibi",
    /* rotary embeddings */
    "partial_rotary_factor", "rotary_pct", "rope_interleaved", "rope_local_base_freq", "mrope_section", "use_mrope",
    "no_rope_layers", "no_rope_layer_interval",
    /* multipliers */
    "residual_multiplier", "embedding_multiplier", "logits_scaling", "logit_scale", "scale_emb", "scale_depth",
    "normalize_embedding", "scale_embeddings",
    /* experts, latent attention, recurrence */
    "num_experts", "num_local_experts", "n_routed_experts", "kv_lora_rank", "q_lora_rank", "linear_attention",
    "full_attention_interval", "num_kv_shared_layers",
    /* dropout in training */
    "attention_dropout", "hidden_dropout", "residual_dropout", "resid_pdrop", "embd_pdrop", "embedding_dropout",
    /* other networks */
    "is_encoder_decoder", "add_cross_attention", "vision_config", "audio_config",
    NULL,
};

/* Activations as configs name them, and by the contract's names. */
static const char *const activations[][2] = {
    {"silu", "silu"},           {"swish", "silu"},     {"gelu", "gelu"},
    {"gelu_new", "gelu-tanh"},  {"gelu_fast", "gelu-tanh"}, {"gelu_pytorch_tanh", "gelu-tanh"},
    {"relu", "relu"},           {"relu2", "relu2"},    {"sigmoid", "sigmoid"},
    {"tanh", "tanh"},
};

static bool named(swift_text text, const char *name) { return swift_equal(text, swift_text_of(name)); }

static bool among(const char *const *names, swift_text wanted) {
    for (; names && *names; names++) {
        if (named(wanted, *names)) return true;
    }
    return false;
}

static void about(swift_config config, swift_text key, swift_text what) {
    if (*config.error) return;
    *config.error = swift_error_of(
        SWIFT_JOIN(SWIFT_TEXT("config.json: `"), swift_text_of(config.path), key, SWIFT_TEXT("` is "), what));
}

/* How a value is named in an error. */
static swift_text show(const swift_json *value) {
    if (!value) return SWIFT_TEXT("missing");
    if (value->type == SWIFT_JSON_ARRAY) return SWIFT_JOIN(SWIFT_TEXT("a list of "), swift_integer((int64_t)value->count));
    if (value->type == SWIFT_JSON_OBJECT) return SWIFT_TEXT("an object");
    return value->source.length <= 100 ? value->source : SWIFT_TEXT("a long text");
}

static void refuse(swift_config config, swift_text key, const swift_json *value, const char *what) {
    about(config, key, SWIFT_JOIN(show(value), SWIFT_TEXT(", "), swift_text_of(what)));
}

void swift_config_refuse(swift_config config, const char *key, const char *what) {
    refuse(config, swift_text_of(key), swift_json_get(config.object, key), what);
}

static const swift_json *value_of(swift_config config, const char *key) {
    const swift_json *value = swift_json_get(config.object, key);
    return value && value->type != SWIFT_JSON_NULL ? value : NULL;
}

bool swift_config_has(swift_config config, const char *key) { return value_of(config, key) != NULL; }

swift_error swift_config_error(swift_config config) { return *config.error; }

static bool read_size(swift_config config, const char *key, uint32_t *size) {
    const swift_json *value = value_of(config, key);
    int64_t number;
    double real;
    if (!value) return false;
    /* 4096.0 is a whole number too. */
    bool whole = swift_json_integer(value, &number) ||
                 (swift_json_number(value, &real) && real >= 1 && real <= 4294967295.0 && (double)(number = (int64_t)real) == real);
    if (!whole || number < 1 || number > 4294967295LL) {
        swift_config_refuse(config, key, "a positive whole number is needed");
        number = 1;
    }
    *size = (uint32_t)number;
    return true;
}

uint32_t swift_config_size(swift_config config, const char *key) {
    uint32_t size = 1;
    if (!read_size(config, key, &size)) swift_config_refuse(config, key, "a positive whole number is needed");
    return size;
}

uint32_t swift_config_size_or(swift_config config, const char *key, uint32_t fallback) {
    read_size(config, key, &fallback);
    return fallback;
}

static bool read_number(swift_config config, const char *key, double *number) {
    const swift_json *value = value_of(config, key);
    if (!value) return false;
    if (!swift_json_number(value, number)) swift_config_refuse(config, key, "a number is needed");
    return true;
}

double swift_config_number(swift_config config, const char *key) {
    double number = 1;
    if (!read_number(config, key, &number)) swift_config_refuse(config, key, "a number is needed");
    return number;
}

double swift_config_number_or(swift_config config, const char *key, double fallback) {
    read_number(config, key, &fallback);
    return fallback;
}

bool swift_config_flag_or(swift_config config, const char *key, bool fallback) {
    const swift_json *value = value_of(config, key);
    if (value && !swift_json_bool(value, &fallback)) swift_config_refuse(config, key, "true or false is needed");
    return fallback;
}

swift_text swift_config_text_or(swift_config config, const char *key, const char *fallback) {
    const swift_json *value = value_of(config, key);
    swift_text text = swift_text_of(fallback);
    if (value && !swift_json_text(value, &text)) swift_config_refuse(config, key, "a text is needed");
    return text;
}

bool swift_config_section(swift_config config, const char *key, swift_config *section) {
    const swift_json *value = value_of(config, key);
    if (value && value->type != SWIFT_JSON_OBJECT) swift_config_refuse(config, key, "an object is needed");
    if (!value || value->type != SWIFT_JSON_OBJECT || value->count == 0) return false;
    swift_text path = SWIFT_JOIN(swift_text_of(config.path), swift_text_of(key), SWIFT_TEXT("."));
    *section = (swift_config){value, swift_error_of(path), config.error};
    return true;
}

const char *swift_config_activation(swift_config config, const char *key) {
    swift_text name = swift_config_text_or(config, key, "silu");
    for (size_t i = 0; i < sizeof activations / sizeof *activations; i++) {
        if (named(name, activations[i][0])) return activations[i][1];
    }
    about(config, swift_text_of(key),
          SWIFT_JOIN(SWIFT_TEXT("the activation \""), name,
                     SWIFT_TEXT("\", which is not built; built are silu, gelu, gelu_new, gelu_pytorch_tanh, relu, relu2, sigmoid and tanh")));
    return "silu";
}

static bool begins(swift_text text, const char *with) {
    size_t length = strlen(with);
    return text.length >= length && memcmp(text.data, with, length) == 0;
}

static bool neutral(const swift_json *entry) {
    bool flag;
    double number, stands = 0;
    switch (entry->type) {
    case SWIFT_JSON_NULL: return true;
    case SWIFT_JSON_BOOL: return swift_json_bool(entry, &flag) && !flag;
    case SWIFT_JSON_NUMBER: {
        static const char suffix[] = "multiplier";
        size_t length = sizeof suffix - 1;
        bool ends = entry->key.length >= length && memcmp(entry->key.data + entry->key.length - length, suffix, length) == 0;
        if (ends || begins(entry->key, "logit") || begins(entry->key, "scale_") || named(entry->key, "partial_rotary_factor") ||
            named(entry->key, "rotary_pct")) {
            stands = 1;
        }
        return swift_json_number(entry, &number) && number == stands;
    }
    case SWIFT_JSON_TEXT: return entry->text.length == 0;
    case SWIFT_JSON_ARRAY:
        for (const swift_json *item = entry->first; item; item = item->next) {
            if (item->type != SWIFT_JSON_TEXT || !named(item->text, "full_attention")) return false;
        }
        return true;
    default: return entry->count == 0;
    }
}

void swift_config_refuse_all_but(swift_config config, const char *const *built) {
    for (const swift_json *entry = config.object->first; entry; entry = entry->next) {
        if (among(changes_the_model, entry->key) && !among(built, entry->key) && !neutral(entry)) {
            refuse(config, entry->key, entry, "which changes the model in a way that this plugin does not build");
        }
    }
}

/* -- Rotary embeddings ------------------------------------------------------------------------------------------------ */

/* All that one of the built scalings reads. Any other key would be a meaning nobody builds. */
static const char *const rope_keys[] = {
    "rope_theta", "rope_type", "type", "partial_rotary_factor", "factor", "original_max_position_embeddings", "low_freq_factor",
    "high_freq_factor", "beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate",
    /* Written by the authors of YaRN, read by nobody. */
    "finetuned", NULL,
};

static void add(swift_rope *rope, swift_option option) { rope->options[rope->count++] = option; }

/* The trained length: outside the rotary section it has priority, and without any it is the length of the model. */
static double original_length(swift_config config, swift_config section) {
    static const char key[] = "original_max_position_embeddings";
    if (swift_config_has(config, key)) return swift_config_size(config, key);
    if (swift_config_has(section, key)) return swift_config_size(section, key);
    return swift_config_size(config, "max_position_embeddings");
}

static void read_yarn(swift_rope *rope, swift_config config, swift_config section) {
    double original = original_length(config, section), number;
    bool has_factor = swift_config_has(section, "factor");
    add(rope, swift_number_option("factor", has_factor ? swift_config_number(section, "factor")
                                                       : swift_config_size(config, "max_position_embeddings") / original));
    add(rope, swift_number_option("original-max-position", original));
    if (read_number(section, "attention_factor", &number)) add(rope, swift_number_option("attention-factor", number));
    /* transformers takes 0 for absent in all four. */
    if ((number = swift_config_number_or(section, "beta_fast", 0)) != 0) add(rope, swift_number_option("beta-fast", number));
    if ((number = swift_config_number_or(section, "beta_slow", 0)) != 0) add(rope, swift_number_option("beta-slow", number));
    double scale = swift_config_number_or(section, "mscale", 0), all = swift_config_number_or(section, "mscale_all_dim", 0);
    if (scale != 0 && all != 0) {
        add(rope, swift_number_option("mscale", scale));
        add(rope, swift_number_option("mscale-all-dim", all));
    }
    if (swift_config_has(section, "truncate")) add(rope, swift_flag_option("truncate", swift_config_flag_or(section, "truncate", true)));
}

swift_rope swift_rope_of(swift_config config, uint32_t head_dim) {
    swift_rope rope = {.dims = head_dim, .theta = swift_config_number_or(config, "rope_theta", 10000)};
    swift_config section;
    /* transformers lets `rope_scaling` win when both are there. */
    if (!swift_config_section(config, "rope_scaling", &section) && !swift_config_section(config, "rope_parameters", &section)) {
        return rope;
    }
    for (const swift_json *entry = section.object->first; entry; entry = entry->next) {
        if (entry->type == SWIFT_JSON_OBJECT) {
            refuse(section, entry->key, entry, "a rotary embedding for each type of layer is not built");
        } else if (!among(rope_keys, entry->key)) {
            refuse(section, entry->key, entry, "which no rotary embedding that is built has");
        }
    }
    if (swift_config_number_or(section, "partial_rotary_factor", 1) != 1) {
        swift_config_refuse(section, "partial_rotary_factor", "rotating a part of a head is not built by this family");
    }
    rope.theta = swift_config_number_or(section, "rope_theta", rope.theta);
    swift_text kind = swift_config_text_or(section, swift_config_has(section, "rope_type") ? "rope_type" : "type", "default");
    if (named(kind, "default")) return rope;
    if (named(kind, "linear")) {
        add(&rope, swift_number_option("factor", swift_config_number(section, "factor")));
    } else if (named(kind, "dynamic")) {
        add(&rope, swift_number_option("factor", swift_config_number(section, "factor")));
        add(&rope, swift_number_option("max-position", swift_config_size(config, "max_position_embeddings")));
    } else if (named(kind, "llama3")) {
        add(&rope, swift_number_option("factor", swift_config_number(section, "factor")));
        add(&rope, swift_number_option("low-freq-factor", swift_config_number(section, "low_freq_factor")));
        add(&rope, swift_number_option("high-freq-factor", swift_config_number(section, "high_freq_factor")));
        add(&rope, swift_number_option("original-max-position", original_length(config, section)));
    } else if (named(kind, "yarn")) {
        read_yarn(&rope, config, section);
    } else {
        about(section, SWIFT_TEXT("rope_type"),
              SWIFT_JOIN(SWIFT_TEXT("the type \""), kind,
                         SWIFT_TEXT("\", which is not built; built are default, linear, dynamic, llama3 and yarn")));
    }
    add(&rope, swift_text_option("scaling", kind));
    return rope;
}
