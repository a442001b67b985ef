//go:build swift_dataset

package swift

import "unsafe"

// The export of dataset loaders. The layouts are those of the contract's records.

type loaderLayout struct {
	name, summary, endings span
}

type batchLayout struct {
	failed       uint32
	rows, cursor span // after a failure its text stands where the rows do
	last         uint8
}

var (
	readers = held[Reader]{}
	batched batchLayout
	counted struct {
		given  uint8
		length uint64
	}
)

//go:wasmimport [export]swift:dataset/loaders@0.1.0 [resource-new]reader
func newReader(number uint32) uint32

//go:wasmexport swift:dataset/loaders@0.1.0#loaders
func exportLoaders() uint32 {
	defer guard()
	begin()
	var infos []loaderLayout
	for _, one := range loaders {
		infos = append(infos, loaderLayout{sendText(one.Name), sendText(one.Summary), sendTexts(one.Endings)})
	}
	listed = sendItems(infos)
	return address(unsafe.Pointer(&listed))
}

//go:wasmexport swift:dataset/loaders@0.1.0#open
func exportLoaderOpen(
	name, nameLength, location, locationLength, hasSubset, subset, subsetLength, config, configLength, hasCursor, cursor,
	cursorLength uint32,
) uint32 {
	defer guard()
	begin()
	infoOf := func(one *Loader) info { return info{name: one.Name} }
	chosen, settings, err := choose("dataset loader", loaders, infoOf, span{name, nameLength}, span{config, configLength})
	source := Source{
		span{location, locationLength}.text(),
		optionalText{uint8(hasSubset), span{subset, subsetLength}}.text(),
		settings,
		optionalText{uint8(hasCursor), span{cursor, cursorLength}}.text(),
	}
	arguments = nil
	var reader Reader
	if err == nil {
		reader, err = chosen.open(&source)
	}
	if err != nil {
		return reply(span{}, err)
	}
	return reply(span{data: newReader(readers.hold(reader))}, nil)
}

//go:wasmexport swift:dataset/loaders@0.1.0#[method]reader.length
func exportReaderLength(reader uint32) uint32 {
	defer guard()
	begin()
	counted.given = 0
	if known, ok := readers[reader].(Counted); ok {
		counted.given, counted.length = 1, known.Length()
	}
	return address(unsafe.Pointer(&counted))
}

//go:wasmexport swift:dataset/loaders@0.1.0#[method]reader.next
func exportReaderNext(reader, limit uint32) uint32 {
	defer guard()
	begin()
	batch, err := readers[reader].Next(int(limit))
	var rows span
	if err == nil {
		rows, err = sendRows(batch.Rows, "Next")
	}
	batched = batchLayout{0, rows, sendText(batch.Cursor), 0}
	if batch.Last {
		batched.last = 1
	}
	if err != nil {
		batched = batchLayout{failed: 1, rows: sendText(err.Error())}
	}
	return address(unsafe.Pointer(&batched))
}

//go:wasmexport swift:dataset/loaders@0.1.0#[dtor]reader
func exportReaderDrop(reader uint32) { delete(readers, reader) }
