// A model family: grouped-query attention, SwiGLU, RMS norms before each half of a block.
package main

import (
	"math"

	"swift"
)

// model is what the config says, read and checked once.
type model struct {
	vocabulary, width, intermediate, layers, heads, keyHeads, headDim int
	eps                                                               float64
	rope                                                              swift.Rope
}

func read(config *swift.Config) *model {
	// Nothing that changes the mathematics is ignored: name here what the family reads itself.
	config.RefuseAllBut()
	width, heads := config.Size("hidden_size"), config.Size("num_attention_heads")
	headDim := config.SizeOr("head_dim", width/heads)
	return &model{
		vocabulary:   config.Size("vocab_size"),
		width:        width,
		intermediate: config.Size("intermediate_size"),
		layers:       config.Size("num_hidden_layers"),
		heads:        heads,
		keyHeads:     config.SizeOr("num_key_value_heads", heads),
		headDim:      headDim,
		eps:          config.NumberOr("rms_norm_eps", 1e-6),
		rope:         swift.RopeOf(config, headDim),
	}
}

func (m *model) attention(g *swift.Graph, x, positions swift.Tensor) swift.Tensor {
	q := g.Linear("q_proj", x, m.heads*m.headDim, false).Reshape(m.heads, m.headDim)
	k := g.Linear("k_proj", x, m.keyHeads*m.headDim, false).Reshape(m.keyHeads, m.headDim)
	v := g.Linear("v_proj", x, m.keyHeads*m.headDim, false).Reshape(m.keyHeads, m.headDim)
	q, k = q.Rope(positions, m.rope), k.Rope(positions, m.rope)
	scale := 1 / math.Sqrt(float64(m.headDim))
	mixed := g.Attention(q, k, v, g.CausalMask(), scale).Reshape(m.heads * m.headDim)
	return g.Linear("o_proj", mixed, m.width, false)
}

func (m *model) mlp(g *swift.Graph, x swift.Tensor) swift.Tensor {
	gate := g.Linear("gate_proj", x, m.intermediate, false)
	up := g.Linear("up_proj", x, m.intermediate, false)
	return g.Linear("down_proj", gate.GLU(up, "silu"), m.width, false)
}

func (m *model) block(g *swift.Graph, x, positions swift.Tensor) swift.Tensor {
	var change swift.Tensor
	normed := g.RMSNorm("input_layernorm", x, m.eps)
	g.Scope("self_attn", func() { change = m.attention(g, normed, positions) })
	x = x.Add(change)
	normed = g.RMSNorm("post_attention_layernorm", x, m.eps)
	g.Scope("mlp", func() { change = m.mlp(g, normed) })
	return x.Add(change)
}

func build(g *swift.Graph, config *swift.Config) error {
	m := read(config)
	tokens, positions := g.Text()
	var hidden swift.Tensor
	var embedding swift.Param
	g.Scope("model", func() {
		hidden, embedding = g.Embed("embed_tokens", tokens, m.vocabulary, m.width)
		for layer := range m.layers {
			g.Block("layers", layer, func() { hidden = m.block(g, hidden, positions) })
		}
		hidden = g.RMSNorm("norm", hidden, m.eps)
	})
	g.Output("hidden", hidden)
	head := g.HeadTable(config, embedding, m.vocabulary, m.width)
	g.Output("logits", g.Logits(hidden, head))
	return nil
}

func init() {
	swift.AddFamily(swift.Family{
		ModelTypes:    []string{"tiny"},
		Architectures: []string{"TinyForCausalLM"},
		Build:         build,
	})
}

func main() {}
