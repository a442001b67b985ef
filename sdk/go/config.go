package swift

import (
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
)

// config.json of a checkpoint, read with types. A key that changes the mathematics is either read by the family or refused by
// name. No graph is known here.

// changesTheModel are keys of well-known configs that change what a decoder computes. A family names those it builds and
// refuses the rest, see [Config.RefuseAllBut]. Neutral: null, false, 0, empty; for a multiplier 1. The list is that of the SDK
// in Rust.
var changesTheModel = []string{
	// storage that is not plain tensors
	"quantization_config", "compression_config",
	// biases, norms and activations
	"attention_bias", "attention_out_bias", "mlp_bias", "qkv_bias", "use_bias", "lm_head_bias", "use_qk_norm", "qk_norm",
	"qk_layernorm", "clip_qkv", "sandwich_norm",
	// which rows attend to which, and how
	"sliding_window", "use_sliding_window", "layer_types", "attention_chunk_size", "attn_logit_softcapping",
	"final_logit_softcapping", "logits_soft_cap", "attn_temperature_tuning", "attention_multiplier", "query_pre_attn_scalar",
	"attention_sinks", "use_alibi", "alibi",
	// rotary embeddings
	"partial_rotary_factor", "rotary_pct", "rope_interleaved", "rope_local_base_freq", "mrope_section", "use_mrope",
	"no_rope_layers", "no_rope_layer_interval",
	// multipliers
	"residual_multiplier", "embedding_multiplier", "logits_scaling", "logit_scale", "scale_emb", "scale_depth",
	"normalize_embedding", "scale_embeddings",
	// experts, latent attention, recurrence
	"num_experts", "num_local_experts", "n_routed_experts", "kv_lora_rank", "q_lora_rank", "linear_attention",
	"full_attention_interval", "num_kv_shared_layers",
	// dropout in training
	"attention_dropout", "hidden_dropout", "residual_dropout", "resid_pdrop", "embd_pdrop", "embedding_dropout",
	// other networks
	"is_encoder_decoder", "add_cross_attention", "vision_config", "audio_config",
}

// activations as configs name them, and by the contract's names.
var activations = map[string]string{
	"silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_new": "gelu-tanh", "gelu_fast": "gelu-tanh",
	"gelu_pytorch_tanh": "gelu-tanh", "relu": "relu", "relu2": "relu2", "sigmoid": "sigmoid", "tanh": "tanh",
}

const (
	sizeNeeded   = "a positive whole number"
	numberNeeded = "a number"
)

// Config is config.json, or an object inside it. For every reader a null counts as an absent key.
//
// As a wrong call of the graph does, a value that cannot be read ends the build there, with an error that names the key, what
// stands there and what is needed; nothing after it runs.
type Config struct {
	object *Value
	path   string // keys that lead here, each followed by a dot
}

// buildError is a panic that ends a build: it is shown to the user as it is.
type buildError string

func (e buildError) Error() string { return string(e) }

// ParseConfig reads the text of a config.json, which must be a JSON object.
func ParseConfig(text string) (*Config, error) {
	object, err := parsePython(text)
	if err != nil {
		return nil, errors.New("config.json: " + err.Error())
	}
	if object.Kind != Object {
		return nil, errors.New("config.json: " + show(object) + " stands where an object is needed")
	}
	return &Config{object, ""}, nil
}

// Keys are those of this object, in the file's order.
func (c *Config) Keys() (keys []string) {
	for _, entry := range c.object.Items() {
		keys = append(keys, entry.Key)
	}
	return keys
}

// Has says whether the key is there with a value.
func (c *Config) Has(key string) bool { return c.value(key) != nil }

func (c *Config) value(key string) *Value {
	if value := c.object.Get(key); value != nil && value.Kind != Null {
		return value
	}
	return nil
}

func (c *Config) about(key, what string) error {
	return errors.New("config.json: `" + c.path + key + "` is " + what)
}

// Refuse is an error about this key, to return from Build: config.json: `key` is VALUE, WHAT.
func (c *Config) Refuse(key, what string) error {
	shown := "missing"
	if value := c.object.Get(key); value != nil {
		shown = show(value)
		if len(shown) > 100 {
			shown = shown[:100] + "..."
		}
	}
	return c.about(key, shown+", "+what)
}

// refused ends the build with Refuse's error.
func (c *Config) refused(key, what string) { panic(buildError(c.Refuse(key, what).Error())) }

// missing ends the build for want of a value.
func (c *Config) missing(key, needed string) {
	panic(buildError(c.about(key, "missing, "+needed+" is needed").Error()))
}

// optionalValue is what `read` makes of a value; ok is false where there is none.
func optionalValue[T any](c *Config, key, needed string, read func(*Value) (T, bool)) (found T, ok bool) {
	value := c.value(key)
	if value == nil {
		return found, false
	}
	if found, ok = read(value); !ok {
		c.refused(key, needed+" is needed")
	}
	return found, true
}

func readSize(value *Value) (int, bool) {
	size, ok := value.Integer()
	return int(size), ok && size > 0 && size <= math.MaxUint32
}

// Size is a positive whole number that must be there: a width, a count.
func (c *Config) Size(key string) int {
	size, ok := c.OptionalSize(key)
	if !ok {
		c.missing(key, sizeNeeded)
	}
	return size
}

// SizeOr is as Size, with a value for an absent key.
func (c *Config) SizeOr(key string, fallback int) int {
	if size, ok := c.OptionalSize(key); ok {
		return size
	}
	return fallback
}

// OptionalSize is as Size; ok is false for an absent key.
func (c *Config) OptionalSize(key string) (size int, ok bool) {
	return optionalValue(c, key, sizeNeeded, readSize)
}

// Number is a number that must be there.
func (c *Config) Number(key string) float64 {
	number, ok := c.OptionalNumber(key)
	if !ok {
		c.missing(key, numberNeeded)
	}
	return number
}

// NumberOr is as Number, with a value for an absent key.
func (c *Config) NumberOr(key string, fallback float64) float64 {
	if number, ok := c.OptionalNumber(key); ok {
		return number
	}
	return fallback
}

// OptionalNumber is as Number; ok is false for an absent key.
func (c *Config) OptionalNumber(key string) (number float64, ok bool) {
	return optionalValue(c, key, numberNeeded, (*Value).Number)
}

// FlagOr is true or false, with a value for an absent key.
func (c *Config) FlagOr(key string, fallback bool) bool {
	if flag, ok := c.OptionalFlag(key); ok {
		return flag
	}
	return fallback
}

// OptionalFlag is true or false; ok is false for an absent key.
func (c *Config) OptionalFlag(key string) (flag, ok bool) {
	return optionalValue(c, key, "true or false", (*Value).Bool)
}

// TextOr is a text, with a value for an absent key.
func (c *Config) TextOr(key, fallback string) string {
	if text, ok := optionalValue(c, key, "a text", (*Value).Text); ok {
		return text
	}
	return fallback
}

// Texts is a list of texts; ok is false for an absent key.
func (c *Config) Texts(key string) (list []string, ok bool) {
	return optionalValue(c, key, "a list of texts", func(value *Value) (list []string, ok bool) {
		for i := range value.items {
			text, ok := value.items[i].Text()
			if !ok {
				return nil, false
			}
			list = append(list, text)
		}
		return list, value.Kind == Array
	})
}

// Section is an object inside this one; nil for an absent or empty one.
func (c *Config) Section(key string) *Config {
	section, ok := optionalValue(c, key, "an object", func(value *Value) (*Value, bool) { return value, value.Kind == Object })
	if !ok || len(section.items) == 0 {
		return nil
	}
	return &Config{section, c.path + key + "."}
}

// Activation is the activation function under `key` by the name that the host gives it; absent means silu.
func (c *Config) Activation(key string) string {
	name := c.TextOr(key, "silu")
	activation, ok := activations[name]
	if !ok {
		built := "built are silu, gelu, gelu_new, gelu_pytorch_tanh, relu, relu2, sigmoid and tanh"
		panic(buildError(c.about(key, `the activation "`+name+`", which is not built; `+built).Error()))
	}
	return activation
}

// RefuseAllBut refuses every key that changes the mathematics and stands at a value that is not neutral, but for those that
// the family reads itself. Call it first: then nothing of the config is ignored in silence.
func (c *Config) RefuseAllBut(built ...string) {
	for _, entry := range c.object.Items() {
		if slices.Contains(changesTheModel, entry.Key) && !slices.Contains(built, entry.Key) && !neutral(&entry) {
			c.refused(entry.Key, "which changes the model in a way that this plugin does not build")
		}
	}
}

func neutral(entry *Value) bool {
	switch entry.Kind {
	case Bool:
		return entry.Source == "false"
	case NumberKind:
		key, stands := entry.Key, 0.0
		if strings.HasSuffix(key, "multiplier") || strings.HasPrefix(key, "logit") || strings.HasPrefix(key, "scale_") ||
			key == "partial_rotary_factor" || key == "rotary_pct" {
			stands = 1
		}
		number, ok := entry.Number()
		return ok && number == stands
	case TextKind:
		return entry.text == ""
	case Array:
		other := func(item Value) bool { return item.text != "full_attention" }
		return !slices.ContainsFunc(entry.items, other)
	case Object:
		return len(entry.items) == 0
	default:
		return true
	}
}

// AttentionWindows are the windows of every layer, itself included; 0 is full attention.
//
// `layer_types` decides where it is given; else, when `use_sliding_window` is true, the layers from `max_window_layers` on have
// a window of `sliding_window` tokens (Qwen2 and Qwen3).
func AttentionWindows(config *Config, layers int) []int {
	window := 0
	if config.FlagOr("use_sliding_window", false) {
		window = config.SizeOr("sliding_window", 4096)
	}
	windows := make([]int, layers)
	types, given := config.Texts("layer_types")
	if !given {
		// Zero is a meaningful value here: every layer has the window.
		first := 0
		if number, ok := config.OptionalNumber("max_window_layers"); !ok || number != 0 {
			first = config.SizeOr("max_window_layers", 28)
		}
		for layer := first; layer < layers; layer++ {
			windows[layer] = window
		}
		return windows
	}
	if len(types) != layers {
		config.refused("layer_types", "one type for each of the "+strconv.Itoa(layers)+" layers is needed")
	}
	for layer, kind := range types {
		switch {
		case kind == "full_attention":
		case kind != "sliding_attention":
			built := "`, which is not built; built are full_attention and sliding_attention"
			config.refused("layer_types", "and one is `"+kind+built)
		case window == 0:
			needed := "that needs `use_sliding_window` true and a `sliding_window`"
			config.refused("layer_types", "and some are `sliding_attention`; "+needed)
		default:
			windows[layer] = window
		}
	}
	return windows
}
