// A reward: how many of the solution's words the completion has.
package main

import "swift"

type overlap struct{ lowercase bool }

func configure(settings *swift.Settings) (overlap, error) {
	return overlap{settings.Bool("lowercase", true)}, nil
}

func (o overlap) score(sample *swift.Sample, _ *swift.State) swift.Outcome {
	if sample.Solution == nil {
		return swift.NoScore()
	}
	wanted, said := o.words(*sample.Solution), o.words(sample.Completion)
	if len(wanted) == 0 {
		return swift.NoScore()
	}
	found := 0
	for word := range wanted {
		if said[word] {
			found++
		}
	}
	return swift.Score(float64(found) / float64(len(wanted)))
}

// words are the distinct words of a text.
func (o overlap) words(text string) map[string]bool {
	if o.lowercase {
		text = swift.Lowercase(text)
	}
	words := map[string]bool{}
	for _, word := range swift.Words(text) {
		words[word] = true
	}
	return words
}

func init() {
	swift.AddReward(swift.Reward[overlap]{
		Name:      "overlap",
		Summary:   "Share of the solution's words that the completion has",
		Configure: configure,
		Score:     overlap.score,
	})
}

func main() {}
