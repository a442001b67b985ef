//go:build swift_preprocessor

package swift

import "unsafe"

type preprocessorLayout struct {
	name, summary, datasets span
}

var process func(*Value) Rows

//go:wasmexport swift:dataset/preprocessors@0.1.0#preprocessors
func exportPreprocessors() uint32 {
	defer guard()
	begin()
	var infos []preprocessorLayout
	for _, one := range preprocessors {
		infos = append(infos, preprocessorLayout{sendText(one.name), sendText(one.summary), sendTexts(one.datasets)})
	}
	listed = sendItems(infos)
	return address(unsafe.Pointer(&listed))
}

//go:wasmexport swift:dataset/preprocessors@0.1.0#configure
func exportPreprocessorConfigure(name, nameLength, config, configLength uint32) uint32 {
	defer guard()
	begin()
	infoOf := func(one *preprocessor) info { return one.info }
	chosen, settings, err := choose("preprocessor", preprocessors, infoOf, span{name, nameLength}, span{config, configLength})
	if err == nil {
		process, err = chosen.configure(settings)
	}
	return reply(span{}, err)
}

//go:wasmexport swift:dataset/preprocessors@0.1.0#process
func exportPreprocessorProcess(rows, count uint32) uint32 {
	defer guard()
	begin()
	if process == nil {
		return reply(span{}, failure("`process` was called before `configure`"))
	}
	outcomes := make([]Rows, 0, count)
	for _, source := range texts(span{rows, count}) {
		row, err := Parse(source)
		if err != nil || row.Kind != Object {
			return reply(span{}, failure("a source row is not a JSON object"))
		}
		outcomes = append(outcomes, process(row))
	}
	arguments = nil
	return reply(sendRows(outcomes, "Process"))
}
