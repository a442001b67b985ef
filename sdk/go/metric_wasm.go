//go:build swift_metric

package swift

import "unsafe"

type answerLayout struct {
	what    uint32
	payload span
}

type exampleLayout struct {
	prediction answerLayout
	references span // of answerLayout
	columns    span
}

type numberLayout struct {
	name  span
	value float64
}

var running *runningMetric

func (a answerLayout) answer() Answer {
	switch a.what & 0xff {
	case 0:
		return Text(a.payload.text())
	case 1:
		return Tokens(items[int32](a.payload))
	default:
		return Numbers(items[float64](a.payload))
	}
}

//go:wasmexport swift:metric/metrics@0.1.0#metrics
func exportMetrics() uint32 {
	defer guard()
	begin()
	var infos []infoLayout
	for _, metric := range metrics {
		infos = append(infos, sendInfo(metric.info))
	}
	listed = sendItems(infos)
	return address(unsafe.Pointer(&listed))
}

//go:wasmexport swift:metric/metrics@0.1.0#configure
func exportMetricConfigure(name, nameLength, config, configLength uint32) uint32 {
	defer guard()
	begin()
	infoOf := func(metric *metric) info { return metric.info }
	chosen, settings, err := choose("metric", metrics, infoOf, span{name, nameLength}, span{config, configLength})
	if err == nil {
		running, err = chosen.configure(settings)
	}
	return reply(span{}, err)
}

// configuredMetric is the metric that was chosen; none is an error of the host.
func configuredMetric() *runningMetric {
	begin()
	if running == nil {
		panic("a metric was used before `configure`")
	}
	return running
}

//go:wasmexport swift:metric/metrics@0.1.0#update
func exportMetricUpdate(examples, count uint32) uint32 {
	defer guard()
	metric := configuredMetric()
	list := make([]Example, 0, count)
	for _, example := range items[exampleLayout](span{examples, count}) {
		references := make([]Answer, 0, example.references.length)
		for _, reference := range items[answerLayout](example.references) {
			references = append(references, reference.answer())
		}
		list = append(list, Example{example.prediction.answer(), references, columns(example.columns)})
	}
	arguments = nil
	return reply(span{}, metric.update(list))
}

//go:wasmexport swift:metric/metrics@0.1.0#state
func exportMetricState() uint32 {
	defer guard()
	state, err := configuredMetric().state()
	return reply(sendItems(state), err)
}

//go:wasmexport swift:metric/metrics@0.1.0#merge
func exportMetricMerge(state, length uint32) uint32 {
	defer guard()
	metric := configuredMetric()
	bytes := items[byte](span{state, length})
	arguments = nil
	return reply(span{}, metric.merge(bytes))
}

//go:wasmexport swift:metric/metrics@0.1.0#compute
func exportMetricCompute() uint32 {
	defer guard()
	numbers, err := configuredMetric().compute()
	var layouts []numberLayout
	for _, number := range numbers {
		layouts = append(layouts, numberLayout{sendText(number.Name), number.Value})
	}
	return reply(sendItems(layouts), err)
}
