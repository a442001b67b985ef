//go:build swift_reward

package swift

import (
	"math"
	"unsafe"
)

type sampleLayout struct {
	prompt           span // of messageLayout
	completion       span
	completionTokens uint32
	hasSolution      uint8
	solution         span
	columns          span
}

type messageLayout struct{ role, content span }

type outcomeLayout struct {
	what  uint64
	value uint64 // the bits of the score, or the reason's address and length
}

var score func([]Sample, *State) ([]Outcome, error)

//go:wasmexport swift:reward/rewards@0.1.0#rewards
func exportRewards() uint32 {
	defer guard()
	begin()
	var infos []infoLayout
	for _, reward := range rewards {
		infos = append(infos, sendInfo(reward.info))
	}
	listed = sendItems(infos)
	return address(unsafe.Pointer(&listed))
}

//go:wasmexport swift:reward/rewards@0.1.0#configure
func exportRewardConfigure(name, nameLength, config, configLength uint32) uint32 {
	defer guard()
	begin()
	infoOf := func(reward *reward) info { return reward.info }
	chosen, settings, err := choose("reward", rewards, infoOf, span{name, nameLength}, span{config, configLength})
	if err == nil {
		score, err = chosen.configure(settings)
	}
	return reply(span{}, err)
}

//go:wasmexport swift:reward/rewards@0.1.0#score
func exportRewardScore(samples, count uint32, step, maxSteps uint64, epoch float64, seed uint64, extra, extraLength uint32) uint32 {
	defer guard()
	begin()
	if score == nil {
		return reply(span{}, failure("`score` was called before `configure`"))
	}
	list := make([]Sample, 0, count)
	for _, sample := range items[sampleLayout](span{samples, count}) {
		var prompt []Message
		for _, message := range items[messageLayout](sample.prompt) {
			prompt = append(prompt, Message{message.role.text(), message.content.text()})
		}
		var solution *string
		if sample.hasSolution != 0 {
			text := sample.solution.text()
			solution = &text
		}
		list = append(list, Sample{prompt, sample.completion.text(), sample.completionTokens, solution, columns(sample.columns)})
	}
	state := State{step, maxSteps, epoch, seed, span{extra, extraLength}.text()}
	arguments = nil
	outcomes, err := score(list, &state)
	if err == nil {
		outcomes, err = checked(outcomes, len(list))
	}
	layouts := make([]outcomeLayout, 0, len(outcomes))
	for _, outcome := range outcomes {
		value := math.Float64bits(outcome.score)
		if outcome.text != "" {
			value = sendText(outcome.text).bits()
		}
		layouts = append(layouts, outcomeLayout{uint64(outcome.what - 1), value})
	}
	return reply(sendItems(layouts), err)
}
