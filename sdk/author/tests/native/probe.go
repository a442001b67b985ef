// Says back all that it gets, and fails in every way: for the tests of the SDK.
package main

import (
	"errors"
	"math"
	"strconv"

	"swift"
)

type probe struct{ mode string }

func configure(settings *swift.Settings) (probe, error) {
	self := probe{settings.Text("mode", "echo")}
	whole := settings.Integer("whole", 8)
	number := settings.Number("number", 0.5)
	settings.Bool("flag", false)
	if whole < 0 {
		return self, errors.New("`whole` is negative")
	}
	if number > 1 {
		swift.Warn("number is " + real(number))
	}
	return self, nil
}

func real(number float64) string { return strconv.FormatFloat(number, 'g', -1, 64) }

func renderColumns(columns swift.Columns) (text string) {
	for _, column := range columns {
		text += " " + column.Name + "=" + column.JSON
	}
	return text
}

func render(sample *swift.Sample, state *swift.State) (text string) {
	for _, message := range sample.Prompt {
		text += message.Role + ":" + message.Content + " "
	}
	solution := "none"
	if sample.Solution != nil {
		solution = *sample.Solution
	}
	whole := func(number uint64) string { return strconv.FormatUint(number, 10) }
	return text + "/ " + sample.Completion + " / " + whole(uint64(sample.CompletionTokens)) + " / " + solution + " /" +
		renderColumns(sample.Columns) + " / " + whole(state.Step) + " " + whole(state.MaxSteps) + " " + real(state.Epoch) +
		" " + whole(state.Seed) + " " + state.Extra
}

func deep(depth int) int { return deep(depth+1) + depth }

func (p probe) score(sample *swift.Sample, state *swift.State) swift.Outcome {
	switch p.mode {
	case "echo":
		return swift.Fail(render(sample, state))
	case "column":
		list := sample.Columns.Get("list").Items()
		if list == nil {
			return swift.NoScore()
		}
		if number, ok := list[0].Number(); ok {
			return swift.Score(number)
		}
		text, _ := list[0].Text()
		return swift.Fail(swift.Quote(text))
	case "nan":
		return swift.Score(math.NaN())
	}
	if len(sample.Completion) != 3 {
		return swift.Score(1)
	}
	switch p.mode {
	case "panic":
		return swift.Score(float64(sample.Prompt[len(sample.Completion)].Role[0]))
	case "deadlock":
		<-make(chan int)
	case "deep":
		return swift.Score(float64(deep(0)))
	}
	for {
	}
}

func rank(_ struct{}, samples []swift.Sample, _ *swift.State) ([]swift.Outcome, error) {
	outcomes := make([]swift.Outcome, len(samples))
	for i, sample := range samples {
		if sample.Completion != "" {
			outcomes[i] = swift.Score(float64(len(samples)))
		}
	}
	return outcomes, nil
}

type told struct{ said string }

func renderAnswer(answer swift.Answer) (text string) {
	switch answer := answer.(type) {
	case swift.Text:
		return string(answer)
	case swift.Tokens:
		for _, id := range answer {
			text += strconv.Itoa(int(id)) + ","
		}
	case swift.Numbers:
		for _, number := range answer {
			text += real(number) + ","
		}
	}
	return text
}

func (t *told) update(examples []swift.Example) error {
	for _, example := range examples {
		t.said += "[" + renderAnswer(example.Prediction)
		for _, reference := range example.References {
			t.said += "|" + renderAnswer(reference)
		}
		t.said += renderColumns(example.Columns) + "]"
	}
	return nil
}

func (t *told) compute() (numbers []swift.Number, err error) {
	for i := range 20 {
		numbers = append(numbers, swift.Number{Name: "n" + strconv.Itoa(i), Value: float64(i)})
	}
	if t.said != "" {
		err = errors.New(t.said)
	}
	return numbers, err
}

func process(_ struct{}, row *swift.Value) swift.Rows {
	switch what, _ := row.Get("do").Text(); what {
	case "drop":
		return swift.Drop("no use")
	case "two":
		return swift.ManyRows(`{"n":1}`, `{"n":2}`)
	default:
		return swift.Row(row.Source)
	}
}

func init() {
	swift.AddReward(swift.Reward[probe]{Name: "probe", Summary: "Says back what it gets", Configure: configure, Score: probe.score})
	swift.AddReward(swift.Reward[struct{}]{Name: "rank", Summary: "The size of the batch", ScoreBatch: rank, WholeBatch: true})
	swift.AddMetric(swift.Metric[*told]{
		Name:      "probe",
		Summary:   "Says back what it gets",
		Configure: func(*swift.Settings) (*told, error) { return &told{}, nil },
		Update:    (*told).update,
		State:     func(t *told) ([]byte, error) { return []byte(t.said), nil },
		Merge:     func(t *told, state []byte) error { t.said += string(state); return nil },
		Compute:   (*told).compute,
	})
	swift.AddPreprocessor(swift.Preprocessor[struct{}]{Name: "probe", Summary: "Rows as they are", Datasets: []string{"a/b", "c/d"}, Process: process})
}

func main() {}
