package swift

import "unsafe"

type preprocessorLayout struct {
	name, summary, datasets span
}

type rowsLayout struct {
	what    uint32
	payload span
}

var process func(*Value) Rows

func sendTexts(texts []string) span {
	var spans []span
	for _, text := range texts {
		spans = append(spans, sendText(text))
	}
	return sendItems(spans)
}

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
	sources := items[span](span{rows, count})
	outcomes := make([]rowsLayout, 0, count)
	for _, source := range sources {
		row, err := Parse(source.text())
		if err != nil || row.Kind != Object {
			return reply(span{}, failure("a source row is not a JSON object"))
		}
		switch outcome := process(row); outcome.what {
		case 0:
			return reply(span{}, failure("Process gave neither a row nor a reason for dropping it"))
		case 2:
			outcomes = append(outcomes, rowsLayout{1, sendTexts(outcome.rows)})
		default:
			outcomes = append(outcomes, rowsLayout{uint32(outcome.what - 1), sendText(outcome.text)})
		}
	}
	arguments = nil
	return reply(sendItems(outcomes), nil)
}
