package swift

import (
	"errors"
	"math"
)

// What was added, with its type T taken away: the exports of the contracts are plain functions.

type info struct {
	name, summary string
	flag          bool // WholeBatch, HigherIsBetter
	datasets      []string
}

type reward struct {
	info
	configure func(*Settings) (func([]Sample, *State) ([]Outcome, error), error)
}

type metric struct {
	info
	configure func(*Settings) (*runningMetric, error)
}

type runningMetric struct {
	update  func([]Example) error
	state   func() ([]byte, error)
	merge   func([]byte) error
	compute func() ([]Number, error)
}

type preprocessor struct {
	info
	configure func(*Settings) (func(*Value) Rows, error)
}

var (
	rewards       []reward
	metrics       []metric
	preprocessors []preprocessor
)

// AddReward makes a reward function known. Call it in an init function.
func AddReward[T any](r Reward[T]) {
	if (r.Score == nil) == (r.ScoreBatch == nil) {
		panic("the reward `" + r.Name + "` needs Score or ScoreBatch, one of them")
	}
	rewards = append(rewards, reward{info{r.Name, r.Summary, r.WholeBatch, nil}, func(settings *Settings) (func([]Sample, *State) ([]Outcome, error), error) {
		self, err := configured(r.Configure, settings)
		if r.ScoreBatch != nil {
			return func(samples []Sample, state *State) ([]Outcome, error) { return r.ScoreBatch(self, samples, state) }, err
		}
		return func(samples []Sample, state *State) ([]Outcome, error) {
			outcomes := make([]Outcome, len(samples))
			for i := range samples {
				outcomes[i] = scoreOne(r.Score, self, &samples[i], state)
			}
			return outcomes, nil
		}, err
	}})
}

// scoreOne turns a panic into the failure of its sample.
func scoreOne[T any](score func(T, *Sample, *State) Outcome, self T, sample *Sample, state *State) (outcome Outcome) {
	defer func() {
		if value := recover(); value != nil {
			outcome = Fail(panicText(value))
		}
	}()
	return score(self, sample, state)
}

// AddMetric makes a metric known. Call it in an init function.
func AddMetric[T any](m Metric[T]) {
	if m.Configure == nil || m.Update == nil || m.State == nil || m.Merge == nil || m.Compute == nil {
		panic("the metric `" + m.Name + "` needs Configure, Update, State, Merge and Compute")
	}
	metrics = append(metrics, metric{info{m.Name, m.Summary, m.HigherIsBetter, nil}, func(settings *Settings) (*runningMetric, error) {
		self, err := configured(m.Configure, settings)
		return &runningMetric{
			update:  func(examples []Example) error { return m.Update(self, examples) },
			state:   func() ([]byte, error) { return m.State(self) },
			merge:   func(state []byte) error { return m.Merge(self, state) },
			compute: func() ([]Number, error) { return m.Compute(self) },
		}, err
	}})
}

// AddPreprocessor makes a row preprocessor known. Call it in an init function.
func AddPreprocessor[T any](p Preprocessor[T]) {
	if p.Process == nil {
		panic("the preprocessor `" + p.Name + "` needs Process")
	}
	preprocessors = append(preprocessors, preprocessor{info{p.Name, p.Summary, false, p.Datasets}, func(settings *Settings) (func(*Value) Rows, error) {
		self, err := configured(p.Configure, settings)
		return func(row *Value) Rows { return p.Process(self, row) }, err
	}})
}

// configured runs Configure and refuses settings that it did not read.
func configured[T any](configure func(*Settings) (T, error), settings *Settings) (self T, err error) {
	if configure != nil {
		if self, err = configure(settings); err != nil {
			return self, err
		}
	}
	return self, settings.Refused()
}

// checked replaces what may not be reported.
func checked(outcomes []Outcome, samples int) ([]Outcome, error) {
	if len(outcomes) != samples {
		return nil, errors.New("ScoreBatch gave a wrong number of outcomes")
	}
	for i, outcome := range outcomes {
		if outcome.what == 0 {
			outcomes[i] = Fail("it was given no outcome")
		} else if outcome.what == 1 && (math.IsNaN(outcome.score) || math.IsInf(outcome.score, 0)) {
			outcomes[i] = Fail("the score is not a finite number")
		}
	}
	return outcomes, nil
}
