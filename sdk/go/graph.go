package swift

import "strconv"

// Model families: the builder of the contract with scopes as functions, parameters named by scope, and operators as methods.
// How the builder is called is not known here.
//
// No call here returns an error: a call that the host refuses ends the trace there, and the host reports it with the scope, the
// op, the shapes and the plugin's own stack.

// A Family is models that share one network. It must be pure: everything it builds follows from the config, the names in the
// checkpoint and the task.
type Family struct {
	ModelTypes    []string // the model_types of config.json that it builds
	Architectures []string // asked only when a config has no model_type
	Tasks         []string // what it builds; nil is "causal-lm" alone. Any other is refused by name
	// Build traces the network: it publishes "hidden" [rows, width] and "logits" [rows, vocabulary]. The error is shown to the
	// user as it is.
	Build func(*Graph, *Config) error
}

// Graph is the graph being built. Calls inside [Graph.Scope] and [Graph.Block] name their parameters under its path.
type Graph struct {
	host builder
	path string
}

// A Tensor is a value of the graph: shape [rows, ...tail].
type Tensor struct {
	graph *Graph
	id    uint32
}

// A Param is one tensor of the checkpoint. Using it twice ties it.
type Param struct{ id uint32 }

// A Mask says which rows of its own sequence a row may attend to.
type Mask struct{ id uint32 }

// A Stream is a row axis, such as the tokens of all sequences of a step.
type Stream struct{ id uint32 }

// A DType is what a value of the graph holds.
type DType uint8

const (
	Compute DType = iota // whatever the host runs activations in
	Float32
	Int32
	Boolean
)

// An Option of one call, by its name in the contract. One that the host does not know ends the trace.
type Option struct {
	name string
	what uint8 // as in the contract
	num  float64
	text string
	flag bool
}

// NumberOption is an option that is a number.
func NumberOption(name string, number float64) Option { return Option{name: name, num: number} }

// TextOption is an option that is a text.
func TextOption(name, text string) Option { return Option{name: name, what: 2, text: text} }

// FlagOption is an option that is true or false.
func FlagOption(name string, flag bool) Option { return Option{name: name, what: 3, flag: flag} }

// SoftCap of attention's scores or of logits: y becomes c * tanh(y / c).
func SoftCap(c float64) Option { return NumberOption("soft-cap", c) }

// builder is the contract's resource.
type builder interface {
	rows(name string) uint32
	input(name string, rows uint32, dtype DType, tail []uint32) uint32
	enter(path, kind string)
	exit()
	output(name string, value uint32)
	shape(value uint32) []uint32
	has(name string) bool
	load(name string, shape []uint32) uint32
	read(param uint32) uint32
	embed(ids, table uint32) uint32
	linear(x, weight uint32, bias *Param) uint32
	logits(x, table uint32, options []Option) uint32
	rmsNorm(x uint32, weight *Param, eps float32, options []Option) uint32
	layerNorm(x uint32, weight, bias *Param, eps float32) uint32
	l2Norm(x uint32, eps float32) uint32
	softmax(x uint32) uint32
	rope(x, positions, dims uint32, theta float64, options []Option) uint32
	maskCausal() uint32
	maskAll() uint32
	maskWindow(left, right uint32) uint32
	attention(q, k, v, mask uint32, scale float32, options []Option) uint32
	scalar(x float64) uint32
	unary(op string, x uint32) uint32
	binary(op string, a, b uint32) uint32
	glu(gate, up uint32, activation string) uint32
	reshape(x uint32, tail []uint32) uint32
	split(x, axis uint32, sizes []uint32) []uint32
	concat(xs []uint32, axis uint32) uint32
	supports(op string) bool
}

func (g *Graph) tensor(id uint32) Tensor { return Tensor{g, id} }

// whole is a count as the contract has it; what cannot be one ends the build.
func whole(count int) uint32 {
	if count < 0 || int64(count) > 1<<32-1 {
		panic(buildError("an axis, size or index of " + strconv.Itoa(count) + " cannot be"))
	}
	return uint32(count)
}

func wholes(counts []int) []uint32 {
	list := make([]uint32, len(counts))
	for i, count := range counts {
		list[i] = whole(count)
	}
	return list
}

// Text is the inputs of a language model: tokens [rows] and positions [rows], both int32, of the stream "text".
func (g *Graph) Text() (tokens, positions Tensor) {
	rows := g.Stream("text")
	return g.Input("tokens", rows, Int32), g.Input("positions", rows, Int32)
}

// Stream is the row stream of this name.
func (g *Graph) Stream(name string) Stream { return Stream{g.host.rows(name)} }

// Input is what the data pipeline feeds for each row: [rows, ...tail].
func (g *Graph) Input(name string, rows Stream, dtype DType, tail ...int) Tensor {
	return g.tensor(g.host.input(name, rows.id, dtype, wholes(tail)))
}

// Scope runs `body` inside a scope: `path` is added to the names of its parameters and to its place in messages.
func (g *Graph) Scope(path string, body func()) { g.inside(path, "", body) }

// Block runs `body` as block `index` of the list of layers `path`: a cut for recomputation and pipelining.
func (g *Graph) Block(path string, index int, body func()) {
	g.inside(path+"."+strconv.Itoa(index), "block", body)
}

func (g *Graph) inside(path, kind string, body func()) {
	outside := g.path
	g.host.enter(path, kind)
	g.path = g.full(path)
	body()
	g.host.exit()
	g.path = outside
}

// full is the checkpoint name of `name` in the current scope.
func (g *Graph) full(name string) string {
	if g.path == "" {
		return name
	}
	return g.path + "." + name
}

// Output publishes a result: "hidden", "logits".
func (g *Graph) Output(name string, x Tensor) { g.host.output(name, x.id) }

// Supports says whether the host knows this function of the contract.
func (g *Graph) Supports(op string) bool { return g.host.supports(op) }

// Has says whether the checkpoint holds `name` in the current scope.
func (g *Graph) Has(name string) bool { return g.host.has(g.full(name)) }

// Parameter is the checkpoint tensor `name` of the current scope, which must have this shape.
func (g *Graph) Parameter(name string, shape ...int) Param {
	return Param{g.host.load(g.full(name), wholes(shape))}
}

// Read is a parameter as a value without rows.
func (g *Graph) Read(parameter Param) Tensor { return g.tensor(g.host.read(parameter.id)) }

// Embed is an embedding `name` with weight [vocabulary, width]: [rows] -> [rows, width], and its table for a tied head.
func (g *Graph) Embed(name string, ids Tensor, vocabulary, width int) (Tensor, Param) {
	table := g.Parameter(name+".weight", vocabulary, width)
	return g.tensor(g.host.embed(ids.id, table.id)), table
}

// Linear is a linear layer `name` with weight [out, in] and perhaps a bias [out]: [rows, ..., in] -> [rows, ..., out].
func (g *Graph) Linear(name string, x Tensor, out int, bias bool) Tensor {
	weight := g.Parameter(name+".weight", out, x.Last())
	return g.tensor(g.host.linear(x.id, weight.id, g.bias(name, out, bias)))
}

func (g *Graph) bias(name string, width int, given bool) *Param {
	if !given {
		return nil
	}
	bias := g.Parameter(name+".bias", width)
	return &bias
}

// RMSNorm is an RMS norm `name` over the last axis.
func (g *Graph) RMSNorm(name string, x Tensor, eps float64) Tensor {
	weight := g.Parameter(name+".weight", x.Last())
	return g.tensor(g.host.rmsNorm(x.id, &weight, float32(eps), nil))
}

// RMSNormPlusOne is an RMS norm `name` whose weight is stored as its distance from one (Gemma).
func (g *Graph) RMSNormPlusOne(name string, x Tensor, eps float64) Tensor {
	weight := g.Parameter(name+".weight", x.Last())
	return g.tensor(g.host.rmsNorm(x.id, &weight, float32(eps), []Option{NumberOption("offset", 1)}))
}

// LayerNorm is a layer norm `name` over the last axis.
func (g *Graph) LayerNorm(name string, x Tensor, eps float64, bias bool) Tensor {
	weight := g.Parameter(name+".weight", x.Last())
	return g.tensor(g.host.layerNorm(x.id, &weight, g.bias(name, x.Last(), bias), float32(eps)))
}

// Logits is the vocabulary head: [rows, width], table [vocabulary, width] -> [rows, vocabulary]. Options: "scale", "soft-cap".
func (g *Graph) Logits(x Tensor, table Param, options ...Option) Tensor {
	return g.tensor(g.host.logits(x.id, table.id, options))
}

// HeadTable is the table of the vocabulary head: `lm_head.weight`, or `embedding` where the two are tied. They are tied when
// the config says so, or says nothing and the checkpoint has no head.
func (g *Graph) HeadTable(config *Config, embedding Param, vocabulary, width int) Param {
	if config.FlagOr("tie_word_embeddings", !g.Has("lm_head.weight")) {
		return embedding
	}
	return g.Parameter("lm_head.weight", vocabulary, width)
}

// CausalMask lets a row see itself and all rows before it.
func (g *Graph) CausalMask() Mask { return Mask{g.host.maskCausal()} }

// WindowMask lets a row see itself and the window - 1 rows before it; a window of 0 is [Graph.CausalMask].
func (g *Graph) WindowMask(window int) Mask {
	if window == 0 {
		return g.CausalMask()
	}
	return Mask{g.host.maskWindow(whole(window-1), 0)}
}

// FullMask lets every row see its whole sequence.
func (g *Graph) FullMask() Mask { return Mask{g.host.maskAll()} }

// Attention: q [rows, hq, d], k [rows, hk, d], v [rows, hk, dv] -> [rows, hq, dv]; hk divides hq. Option: "soft-cap".
func (g *Graph) Attention(q, k, v Tensor, mask Mask, scale float64, options ...Option) Tensor {
	return g.tensor(g.host.attention(q.id, k.id, v.id, mask.id, float32(scale), options))
}

// Scalar is a number as a value.
func (g *Graph) Scalar(x float64) Tensor { return g.tensor(g.host.scalar(x)) }

// Concat joins along tail axis `axis`.
func (g *Graph) Concat(axis int, xs ...Tensor) Tensor {
	ids := make([]uint32, len(xs))
	for i, x := range xs {
		ids[i] = x.id
	}
	return g.tensor(g.host.concat(ids, whole(axis)))
}

// Tail is the axes after the rows.
func (x Tensor) Tail() []int {
	var tail []int
	for _, axis := range x.graph.host.shape(x.id) {
		tail = append(tail, int(axis))
	}
	return tail
}

// Last is the last axis; 1 for a value without any.
func (x Tensor) Last() int {
	if tail := x.Tail(); len(tail) > 0 {
		return tail[len(tail)-1]
	}
	return 1
}

// Reshape is the same elements of every row as [rows, ...tail].
func (x Tensor) Reshape(tail ...int) Tensor {
	return x.graph.tensor(x.graph.host.reshape(x.id, wholes(tail)))
}

// Rope rotates heads [rows, heads, d] by positions [rows].
func (x Tensor) Rope(positions Tensor, rope Rope) Tensor {
	return x.graph.tensor(x.graph.host.rope(x.id, positions.id, whole(rope.Dims), rope.Theta, rope.Options))
}

// GLU is activation(x) * up; see the contract's `unary` for the names.
func (x Tensor) GLU(up Tensor, activation string) Tensor {
	return x.graph.tensor(x.graph.host.glu(x.id, up.id, activation))
}

// Unary is a pointwise function by its name in the contract.
func (x Tensor) Unary(op string) Tensor { return x.graph.tensor(x.graph.host.unary(op, x.id)) }

// Binary is a pointwise function of two operands by its name in the contract.
func (x Tensor) Binary(op string, other Tensor) Tensor {
	return x.graph.tensor(x.graph.host.binary(op, x.id, other.id))
}

// Add is x + other.
func (x Tensor) Add(other Tensor) Tensor { return x.Binary("add", other) }

// Sub is x - other.
func (x Tensor) Sub(other Tensor) Tensor { return x.Binary("sub", other) }

// Mul is x * other, element by element.
func (x Tensor) Mul(other Tensor) Tensor { return x.Binary("mul", other) }

// Div is x / other, element by element.
func (x Tensor) Div(other Tensor) Tensor { return x.Binary("div", other) }

// Times is x * number.
func (x Tensor) Times(number float64) Tensor { return x.Mul(x.graph.Scalar(number)) }

// Plus is x + number.
func (x Tensor) Plus(number float64) Tensor { return x.Add(x.graph.Scalar(number)) }

// Softmax is over the last axis.
func (x Tensor) Softmax() Tensor { return x.graph.tensor(x.graph.host.softmax(x.id)) }

// L2Norm divides by the Euclidean length of the last axis.
func (x Tensor) L2Norm(eps float64) Tensor {
	return x.graph.tensor(x.graph.host.l2Norm(x.id, float32(eps)))
}

// Split gives pieces of these sizes along tail axis `axis`.
func (x Tensor) Split(axis int, sizes ...int) []Tensor {
	var pieces []Tensor
	for _, id := range x.graph.host.split(x.id, whole(axis), wholes(sizes)) {
		pieces = append(pieces, x.graph.tensor(id))
	}
	return pieces
}
