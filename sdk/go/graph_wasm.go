//go:build swift_model

package swift

import (
	"math"
	"slices"
	"unsafe"
)

// The import of the graph's builder. A handle is a number; a text or list is given by its place and length.

//go:wasmimport swift:model/graph@0.1.0 [resource-drop]builder
func importBuilderDrop(builder uint32)

//go:wasmimport swift:model/graph@0.1.0 [method]builder.rows
func importRows(self uint32, name unsafe.Pointer, length uint32) uint32

//go:wasmimport swift:model/graph@0.1.0 [method]builder.input
func importInput(self uint32, name unsafe.Pointer, length, rows, dtype uint32, tail unsafe.Pointer, count uint32) uint32

//go:wasmimport swift:model/graph@0.1.0 [method]builder.enter
func importEnter(self uint32, path unsafe.Pointer, length uint32, kind unsafe.Pointer, kindLength uint32)

//go:wasmimport swift:model/graph@0.1.0 [method]builder.exit
func importExit(self uint32)

//go:wasmimport swift:model/graph@0.1.0 [method]builder.output
func importOutput(self uint32, name unsafe.Pointer, length, value uint32)

//go:wasmimport swift:model/graph@0.1.0 [method]builder.shape
func importShape(self, value uint32, answer unsafe.Pointer)

//go:wasmimport swift:model/graph@0.1.0 [method]builder.has
func importHas(self uint32, name unsafe.Pointer, length uint32) uint32

//go:wasmimport swift:model/graph@0.1.0 [method]builder.load
func importLoad(self uint32, name unsafe.Pointer, length uint32, shape unsafe.Pointer, count uint32) uint32

//go:wasmimport swift:model/graph@0.1.0 [method]builder.read
func importReadParam(self, param uint32) uint32

//go:wasmimport swift:model/graph@0.1.0 [method]builder.embed
func importEmbed(self, ids, table uint32) uint32

//go:wasmimport swift:model/graph@0.1.0 [method]builder.linear
func importLinear(self, x, weight, hasBias, bias uint32) uint32

//go:wasmimport swift:model/graph@0.1.0 [method]builder.logits
func importLogits(self, x, table uint32, options unsafe.Pointer, count uint32) uint32

//go:wasmimport swift:model/graph@0.1.0 [method]builder.rms-norm
func importRMSNorm(self, x, hasWeight, weight uint32, eps float32, options unsafe.Pointer, count uint32) uint32

//go:wasmimport swift:model/graph@0.1.0 [method]builder.layer-norm
func importLayerNorm(self, x, hasWeight, weight, hasBias, bias uint32, eps float32) uint32

//go:wasmimport swift:model/graph@0.1.0 [method]builder.l2-norm
func importL2Norm(self, x uint32, eps float32) uint32

//go:wasmimport swift:model/graph@0.1.0 [method]builder.softmax
func importSoftmax(self, x uint32) uint32

//go:wasmimport swift:model/graph@0.1.0 [method]builder.rope
func importRope(self, x, positions, dims uint32, theta float64, options unsafe.Pointer, count uint32) uint32

//go:wasmimport swift:model/graph@0.1.0 [method]builder.mask-causal
func importMaskCausal(self uint32) uint32

//go:wasmimport swift:model/graph@0.1.0 [method]builder.mask-all
func importMaskAll(self uint32) uint32

//go:wasmimport swift:model/graph@0.1.0 [method]builder.mask-window
func importMaskWindow(self, left, right uint32) uint32

//go:wasmimport swift:model/graph@0.1.0 [method]builder.attention
func importAttention(self, q, k, v, mask uint32, scale float32, options unsafe.Pointer, count uint32) uint32

//go:wasmimport swift:model/graph@0.1.0 [method]builder.scalar
func importScalar(self uint32, x float64) uint32

//go:wasmimport swift:model/graph@0.1.0 [method]builder.unary
func importUnary(self uint32, op unsafe.Pointer, length, x uint32) uint32

//go:wasmimport swift:model/graph@0.1.0 [method]builder.binary
func importBinary(self uint32, op unsafe.Pointer, length, a, b uint32) uint32

//go:wasmimport swift:model/graph@0.1.0 [method]builder.glu
func importGLU(self, gate, up uint32, activation unsafe.Pointer, length uint32) uint32

//go:wasmimport swift:model/graph@0.1.0 [method]builder.reshape
func importReshape(self, x uint32, tail unsafe.Pointer, count uint32) uint32

//go:wasmimport swift:model/graph@0.1.0 [method]builder.split
func importSplit(self, x, axis uint32, sizes unsafe.Pointer, count uint32, answer unsafe.Pointer)

//go:wasmimport swift:model/graph@0.1.0 [method]builder.concat
func importConcat(self uint32, xs unsafe.Pointer, count, axis uint32) uint32

//go:wasmimport swift:model/graph@0.1.0 [method]builder.supports
func importSupports(self uint32, op unsafe.Pointer, length uint32) uint32

// hostBuilder is the handle of the builder that the host lends for one build.
type hostBuilder uint32

// optionLayout is a name and the variant `arg`; its payload is a number, a place with a length, or a truth.
type optionLayout struct {
	name    span
	what    uint8
	payload uint64
}

func place(text string) (unsafe.Pointer, uint32) {
	return unsafe.Pointer(unsafe.StringData(text)), uint32(len(text))
}

func placeOf[T any](list []T) (unsafe.Pointer, uint32) {
	return unsafe.Pointer(unsafe.SliceData(list)), uint32(len(list))
}

// layOut is options as they lie in memory. Their texts are held by the options.
func layOut(options []Option) (unsafe.Pointer, uint32) {
	layouts := make([]optionLayout, len(options))
	for i := range options {
		one := &options[i]
		payload := math.Float64bits(one.num)
		switch one.what {
		case 2:
			payload = spanOf(one.text).bits()
		case 3:
			payload = truth(one.flag)
		}
		layouts[i] = optionLayout{spanOf(one.name), one.what, payload}
	}
	return placeOf(layouts)
}

func truth(flag bool) uint64 {
	if flag {
		return 1
	}
	return 0
}

// optionalParam is option<param>.
func optionalParam(param *Param) (given, id uint32) {
	if param == nil {
		return 0, 0
	}
	return 1, param.id
}

// listed32 is a list that the host answered with; its memory is let go of.
func listed32(answer span, kept int) []uint32 {
	list := slices.Clone(items[uint32](answer))
	forget(kept)
	return list
}

func (b hostBuilder) rows(name string) uint32 {
	data, length := place(name)
	return importRows(uint32(b), data, length)
}

func (b hostBuilder) input(name string, rows uint32, dtype DType, tail []uint32) uint32 {
	data, length := place(name)
	axes, count := placeOf(tail)
	return importInput(uint32(b), data, length, rows, uint32(dtype), axes, count)
}

func (b hostBuilder) enter(path, kind string) {
	data, length := place(path)
	kindData, kindLength := place(kind)
	importEnter(uint32(b), data, length, kindData, kindLength)
}

func (b hostBuilder) exit() { importExit(uint32(b)) }

func (b hostBuilder) output(name string, value uint32) {
	data, length := place(name)
	importOutput(uint32(b), data, length, value)
}

func (b hostBuilder) shape(value uint32) []uint32 {
	var answer span
	kept := len(arguments)
	importShape(uint32(b), value, unsafe.Pointer(&answer))
	return listed32(answer, kept)
}

func (b hostBuilder) has(name string) bool {
	data, length := place(name)
	return importHas(uint32(b), data, length) != 0
}

func (b hostBuilder) load(name string, shape []uint32) uint32 {
	data, length := place(name)
	axes, count := placeOf(shape)
	return importLoad(uint32(b), data, length, axes, count)
}

func (b hostBuilder) read(param uint32) uint32 { return importReadParam(uint32(b), param) }

func (b hostBuilder) embed(ids, table uint32) uint32 { return importEmbed(uint32(b), ids, table) }

func (b hostBuilder) linear(x, weight uint32, bias *Param) uint32 {
	hasBias, id := optionalParam(bias)
	return importLinear(uint32(b), x, weight, hasBias, id)
}

func (b hostBuilder) logits(x, table uint32, options []Option) uint32 {
	data, count := layOut(options)
	return importLogits(uint32(b), x, table, data, count)
}

func (b hostBuilder) rmsNorm(x uint32, weight *Param, eps float32, options []Option) uint32 {
	hasWeight, id := optionalParam(weight)
	data, count := layOut(options)
	return importRMSNorm(uint32(b), x, hasWeight, id, eps, data, count)
}

func (b hostBuilder) layerNorm(x uint32, weight, bias *Param, eps float32) uint32 {
	hasWeight, weightID := optionalParam(weight)
	hasBias, biasID := optionalParam(bias)
	return importLayerNorm(uint32(b), x, hasWeight, weightID, hasBias, biasID, eps)
}

func (b hostBuilder) l2Norm(x uint32, eps float32) uint32 { return importL2Norm(uint32(b), x, eps) }

func (b hostBuilder) softmax(x uint32) uint32 { return importSoftmax(uint32(b), x) }

func (b hostBuilder) rope(x, positions, dims uint32, theta float64, options []Option) uint32 {
	data, count := layOut(options)
	return importRope(uint32(b), x, positions, dims, theta, data, count)
}

func (b hostBuilder) maskCausal() uint32 { return importMaskCausal(uint32(b)) }

func (b hostBuilder) maskAll() uint32 { return importMaskAll(uint32(b)) }

func (b hostBuilder) maskWindow(left, right uint32) uint32 {
	return importMaskWindow(uint32(b), left, right)
}

func (b hostBuilder) attention(q, k, v, mask uint32, scale float32, options []Option) uint32 {
	data, count := layOut(options)
	return importAttention(uint32(b), q, k, v, mask, scale, data, count)
}

func (b hostBuilder) scalar(x float64) uint32 { return importScalar(uint32(b), x) }

func (b hostBuilder) unary(op string, x uint32) uint32 {
	data, length := place(op)
	return importUnary(uint32(b), data, length, x)
}

func (b hostBuilder) binary(op string, left, right uint32) uint32 {
	data, length := place(op)
	return importBinary(uint32(b), data, length, left, right)
}

func (b hostBuilder) glu(gate, up uint32, activation string) uint32 {
	data, length := place(activation)
	return importGLU(uint32(b), gate, up, data, length)
}

func (b hostBuilder) reshape(x uint32, tail []uint32) uint32 {
	axes, count := placeOf(tail)
	return importReshape(uint32(b), x, axes, count)
}

func (b hostBuilder) split(x, axis uint32, sizes []uint32) []uint32 {
	var answer span
	kept := len(arguments)
	data, count := placeOf(sizes)
	importSplit(uint32(b), x, axis, data, count, unsafe.Pointer(&answer))
	return listed32(answer, kept)
}

func (b hostBuilder) concat(xs []uint32, axis uint32) uint32 {
	data, count := placeOf(xs)
	return importConcat(uint32(b), data, count, axis)
}

func (b hostBuilder) supports(op string) bool {
	data, length := place(op)
	return importSupports(uint32(b), data, length) != 0
}
