//! A model family: grouped-query attention, SwiGLU, RMS norms before each half of a block.

use swift_sdk::{Config, Graph, ModelFamily, Result, Rope, Tensor, export_family};

struct Tiny;

/// What the config says, read and checked once.
struct Model {
    vocabulary: u32,
    width: u32,
    intermediate: u32,
    layers: u32,
    heads: u32,
    key_heads: u32,
    head_dim: u32,
    eps: f32,
    rope: Rope,
}

impl Model {
    fn read(config: &Config) -> Result<Self> {
        // Nothing that changes the mathematics is ignored: name here what the family reads itself.
        config.refuse_all_but(&[])?;
        let (width, heads) = (config.size("hidden_size")?, config.size("num_attention_heads")?);
        let head_dim = config.size_or("head_dim", width / heads)?;
        Ok(Self {
            vocabulary: config.size("vocab_size")?,
            width,
            intermediate: config.size("intermediate_size")?,
            layers: config.size("num_hidden_layers")?,
            heads,
            key_heads: config.size_or("num_key_value_heads", heads)?,
            head_dim,
            eps: config.number_or("rms_norm_eps", 1e-6)? as f32,
            rope: Rope::from_config(config, head_dim)?,
        })
    }

    fn attention<'g>(&self, g: &'g Graph, x: Tensor<'g>, positions: Tensor<'g>) -> Tensor<'g> {
        let (heads, key_heads, dim) = (self.heads, self.key_heads, self.head_dim);
        let q = g.linear("q_proj", x, heads * dim, false).reshape(&[heads, dim]);
        let k = g.linear("k_proj", x, key_heads * dim, false).reshape(&[key_heads, dim]);
        let v = g.linear("v_proj", x, key_heads * dim, false).reshape(&[key_heads, dim]);
        let (q, k) = (q.rope(positions, &self.rope), k.rope(positions, &self.rope));
        let scale = 1.0 / f64::from(dim).sqrt();
        let mixed = g.attention(q, k, v, g.causal_mask(None), scale as f32).reshape(&[heads * dim]);
        g.linear("o_proj", mixed, self.width, false)
    }

    fn mlp<'g>(&self, g: &'g Graph, x: Tensor<'g>) -> Tensor<'g> {
        let gate = g.linear("gate_proj", x, self.intermediate, false);
        let up = g.linear("up_proj", x, self.intermediate, false);
        g.linear("down_proj", gate.glu(up, "silu"), self.width, false)
    }

    fn block<'g>(&self, g: &'g Graph, x: Tensor<'g>, positions: Tensor<'g>) -> Tensor<'g> {
        let normed = g.rms_norm("input_layernorm", x, self.eps);
        let x = x + g.scope("self_attn", |g| self.attention(g, normed, positions));
        let normed = g.rms_norm("post_attention_layernorm", x, self.eps);
        x + g.scope("mlp", |g| self.mlp(g, normed))
    }
}

impl ModelFamily for Tiny {
    const MODEL_TYPES: &'static [&'static str] = &["tiny"];
    const ARCHITECTURES: &'static [&'static str] = &["TinyForCausalLM"];

    fn build(g: &Graph, config: &Config) -> Result<()> {
        let model = Model::read(config)?;
        let (tokens, positions) = g.text();
        let (hidden, embedding) = g.scope("model", |g| {
            let (mut x, embedding) = g.embed("embed_tokens", tokens, model.vocabulary, model.width);
            for layer in 0..model.layers {
                x = g.block("layers", layer, |g| model.block(g, x, positions));
            }
            (g.rms_norm("norm", x, model.eps), embedding)
        });
        g.output("hidden", hidden);
        let head = g.head_table(config, embedding, model.vocabulary, model.width)?;
        g.output("logits", g.logits(hidden, head));
        Ok(())
    }
}

export_family!(Tiny);
