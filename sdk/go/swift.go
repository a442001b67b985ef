// Package swift is for writing plugins for swift in Go.
//
// A plugin is a WebAssembly component that swift runs in a sandbox. Name what it holds in an init function with [AddReward],
// [AddMetric], [AddPreprocessor], [AddLoader], [AddTemplate] or [AddFamily], say the same kinds in plugin.toml, and build the
// folder with `swift plugin build`.
//
// Swift makes a fresh instance of the plugin for a few samples and drops it afterwards: nothing is remembered from one call
// to the next, but for what a metric takes in. There is no environment, and no file or host but what plugin.toml asks for and
// the user grants: see [OpenFile] and [Send]. What is printed goes nowhere: see [Info]. The clock and chance are fixed
// sequences, so the same samples get the same scores.
//
// A panic keeps its message, file and line. The packages fmt and encoding/json work, and make a plugin twice as large.
package swift

// An Outcome is what one sample got. Make one with [Score], [NoScore] or [Fail].
type Outcome struct {
	what  uint8 // one more than in the contract: the zero value is no outcome
	score float64
	text  string
}

// Score is a finite number.
func Score(score float64) Outcome { return Outcome{what: 1, score: score} }

// NoScore says that the function has nothing to say about the sample: it does not count.
func NoScore() Outcome { return Outcome{what: 2} }

// Fail says that the sample should have a score and has none, for this reason: it is logged and counted.
func Fail(reason string) Outcome { return Outcome{what: 3, text: reason} }

// A Message of the prompt. Role is system, user, assistant, tool_call or tool_response.
type Message struct{ Role, Content string }

// A Sample is one completion with all that is known of it.
type Sample struct {
	Prompt           []Message
	Completion       string
	CompletionTokens uint32  // its end included
	Solution         *string // the column "solution"; nil without one
	Columns          Columns // every other column of the row
}

// State says where the run is.
type State struct {
	Step     uint64
	MaxSteps uint64 // 0 where that is not known
	Epoch    float64
	Seed     uint64 // the only source of chance
	Extra    string // a JSON object with whatever else is known
}

// A Reward is a reward function. T is what Configure makes of the settings.
type Reward[T any] struct {
	Name    string // lower case, digits, "_" and "-"
	Summary string // one line
	// Configure reads the settings. Without it there are none.
	Configure func(*Settings) (T, error)
	// Score or ScoreBatch, one of them: the outcome of a sample, or the outcomes of all of them. A panic in Score fails its
	// sample alone.
	Score      func(T, *Sample, *State) Outcome
	ScoreBatch func(T, []Sample, *State) ([]Outcome, error)
	// WholeBatch says that a score depends on the other samples, so that a batch is never cut into pieces.
	WholeBatch bool
}

// An Answer is [Text], [Tokens] or [Numbers].
type Answer interface{ answer() }

// Text of an answer.
type Text string

// Tokens are ids; -100 marks a position that does not count.
type Tokens []int32

// Numbers are scores of candidates in a prediction, their relevances or labels in a reference.
type Numbers []float64

func (Text) answer()    {}
func (Tokens) answer()  {}
func (Numbers) answer() {}

// An Example is one prediction.
type Example struct {
	Prediction Answer
	References []Answer // any of them is right
	Columns    Columns  // every other column of the row
}

// A Number that a metric reports.
type Number struct {
	Name  string
	Value float64
}

// A Metric is an evaluation metric. An evaluation is cut into batches; each is taken in by an instance of its own
// (Configure, Update, State), and one last instance puts the states together (Configure, Merge..., Compute).
type Metric[T any] struct {
	Name           string
	Summary        string
	HigherIsBetter bool
	// Configure reads the settings and gives what the others change.
	Configure func(*Settings) (T, error)
	Update    func(T, []Example) error
	// State is all that was taken in, in a form of your own.
	State func(T) ([]byte, error)
	// Merge takes in the state of another instance.
	Merge func(T, []byte) error
	// Compute leaves out a number that is not defined (a mean of nothing).
	Compute func(T) ([]Number, error)
}

// Rows are what became of a source row. Make them with [Row], [ManyRows] or [Drop].
type Rows struct {
	what uint8 // one more than in the contract
	text string
	rows []string
}

// Row is one canonical row, as JSON.
func Row(json string) Rows { return Rows{what: 1, text: json} }

// ManyRows are several: at least one.
func ManyRows(json ...string) Rows { return Rows{what: 2, rows: json} }

// Drop keeps none, for this reason: a few words that are the same for the same trouble.
func Drop(reason string) Rows { return Rows{what: 3, text: reason} }

// A Preprocessor turns source rows into canonical rows.
type Preprocessor[T any] struct {
	Name     string
	Summary  string
	Datasets []string // ids of datasets that it is for
	// Configure reads the settings. Without it there are none.
	Configure func(*Settings) (T, error)
	Process   func(T, *Value) Rows
}
