package swift

import "slices"

// Rotary embeddings as configs describe them: `rope_parameters` (transformers 5) and `rope_theta` with `rope_scaling` (before),
// whose type is under `rope_type` or `type`. The contract's names of the options are known here, and no graph.

// A Rope is one rotary embedding: how many dimensions of a head it rotates, its base, and its scaling.
type Rope struct {
	Dims    int
	Theta   float64
	Options []Option // as the contract's `rope` names them
}

// ropeKeys are all that one of the built scalings reads. Any other key would be a meaning nobody builds.
var ropeKeys = []string{
	"rope_theta", "rope_type", "type", "partial_rotary_factor", "factor", "original_max_position_embeddings", "low_freq_factor",
	"high_freq_factor", "beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate",
	// Written by the authors of YaRN, read by nobody.
	"finetuned",
}

// RopeOf reads the rotary embedding of heads of `headDim` dimensions, all of them rotated. As with [Config], what is not built
// ends the build with an error that names it.
func RopeOf(config *Config, headDim int) Rope {
	// transformers lets `rope_scaling` win when both are there.
	section := config.Section("rope_scaling")
	if section == nil {
		section = config.Section("rope_parameters")
	}
	rope := Rope{Dims: headDim, Theta: config.NumberOr("rope_theta", 10_000)}
	if section == nil {
		return rope
	}
	for _, entry := range section.object.Items() {
		if entry.Kind == Object {
			section.refused(entry.Key, "a rotary embedding for each type of layer is not built")
		}
		if !slices.Contains(ropeKeys, entry.Key) {
			section.refused(entry.Key, "which no rotary embedding that is built has")
		}
	}
	if section.NumberOr("partial_rotary_factor", 1) != 1 {
		section.refused("partial_rotary_factor", "rotating a part of a head is not built by this family")
	}
	rope.Theta = section.NumberOr("rope_theta", rope.Theta)
	kind := section.TextOr("rope_type", section.TextOr("type", "default"))
	switch kind {
	case "default":
		return rope
	case "linear":
		rope.number("factor", section.Number("factor"))
	case "dynamic":
		rope.number("factor", section.Number("factor"))
		rope.number("max-position", float64(config.Size("max_position_embeddings")))
	case "llama3":
		rope.number("factor", section.Number("factor"))
		rope.number("low-freq-factor", section.Number("low_freq_factor"))
		rope.number("high-freq-factor", section.Number("high_freq_factor"))
		rope.number("original-max-position", originalLength(config, section))
	case "yarn":
		rope.readYarn(config, section)
	default:
		built := "\" is not built; built are default, linear, dynamic, llama3 and yarn"
		panic(buildError("config.json: the rope type \"" + kind + built))
	}
	rope.Options = append(rope.Options, TextOption("scaling", kind))
	return rope
}

func (r *Rope) number(name string, value float64) {
	r.Options = append(r.Options, NumberOption(name, value))
}

func (r *Rope) readYarn(config, section *Config) {
	original := originalLength(config, section)
	factor, ok := section.OptionalNumber("factor")
	if !ok {
		factor = float64(config.Size("max_position_embeddings")) / original
	}
	r.number("factor", factor)
	r.number("original-max-position", original)
	if attention, ok := section.OptionalNumber("attention_factor"); ok {
		r.number("attention-factor", attention)
	}
	// transformers takes 0 for absent in all four.
	if beta := section.NumberOr("beta_fast", 0); beta != 0 {
		r.number("beta-fast", beta)
	}
	if beta := section.NumberOr("beta_slow", 0); beta != 0 {
		r.number("beta-slow", beta)
	}
	magnitude, all := section.NumberOr("mscale", 0), section.NumberOr("mscale_all_dim", 0)
	if magnitude != 0 && all != 0 {
		r.number("mscale", magnitude)
		r.number("mscale-all-dim", all)
	}
	if truncate, ok := section.OptionalFlag("truncate"); ok {
		r.Options = append(r.Options, FlagOption("truncate", truncate))
	}
}

// originalLength is the trained length: outside the rotary section it has priority, and without any it is the length of the
// model.
func originalLength(config, section *Config) float64 {
	const key = "original_max_position_embeddings"
	inside, ok := section.OptionalSize(key)
	if outside, given := config.OptionalSize(key); given {
		return float64(outside)
	}
	if ok {
		return float64(inside)
	}
	return float64(config.Size("max_position_embeddings"))
}
