"""A model family: grouped-query attention, SwiGLU, RMS norms before each half of a block."""

from swift_sdk import Config, Graph, Rope, Tensor, model


@model("tiny", architectures=["TinyForCausalLM"])
class Tiny:
    """What the config says, read and checked once, and the network that it describes."""

    def __init__(self, config: Config) -> None:
        # Nothing that changes the mathematics is ignored: name here what the family reads itself.
        config.refuse_all_but()
        self.config = config
        self.vocabulary = config.size("vocab_size")
        self.width = config.size("hidden_size")
        self.intermediate = config.size("intermediate_size")
        self.layers = config.size("num_hidden_layers")
        self.heads = config.size("num_attention_heads")
        self.key_heads = config.size_or("num_key_value_heads", self.heads)
        self.head_dim = config.size_or("head_dim", self.width // self.heads)
        self.eps = config.number_or("rms_norm_eps", 1e-6)
        self.rope = Rope.from_config(config, self.head_dim)

    def build(self, g: Graph) -> None:
        tokens, positions = g.text()
        with g.scope("model"):
            x, embedding = g.embed("embed_tokens", tokens, self.vocabulary, self.width)
            for layer in range(self.layers):
                with g.block("layers", layer):
                    x = self.block(g, x, positions)
            hidden = g.rms_norm("norm", x, self.eps)
        g.output("hidden", hidden)
        head = g.head_table(self.config, embedding, self.vocabulary, self.width)
        g.output("logits", g.logits(hidden, head))

    def block(self, g: Graph, x: Tensor, positions: Tensor) -> Tensor:
        normed = g.rms_norm("input_layernorm", x, self.eps)
        with g.scope("self_attn"):
            attended = self.attention(g, normed, positions)
        x = x + attended
        normed = g.rms_norm("post_attention_layernorm", x, self.eps)
        with g.scope("mlp"):
            fed_forward = self.mlp(g, normed)
        return x + fed_forward

    def attention(self, g: Graph, x: Tensor, positions: Tensor) -> Tensor:
        heads, key_heads, dim = self.heads, self.key_heads, self.head_dim
        q = g.linear("q_proj", x, heads * dim).reshape(heads, dim)
        k = g.linear("k_proj", x, key_heads * dim).reshape(key_heads, dim)
        v = g.linear("v_proj", x, key_heads * dim).reshape(key_heads, dim)
        q, k = q.rope(positions, self.rope), k.rope(positions, self.rope)
        mixed = g.attention(q, k, v, g.causal_mask(), dim**-0.5)
        return g.linear("o_proj", mixed.reshape(heads * dim), self.width)

    def mlp(self, g: Graph, x: Tensor) -> Tensor:
        gate = g.linear("gate_proj", x, self.intermediate)
        up = g.linear("up_proj", x, self.intermediate)
        return g.linear("down_proj", gate.glu(up, "silu"), self.width)
