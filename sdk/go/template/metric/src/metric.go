// A metric: how many predictions equal a reference.
package main

import (
	"errors"
	"strconv"

	"swift"
)

type exactMatch struct{ right, count int64 }

func configure(*swift.Settings) (*exactMatch, error) { return &exactMatch{}, nil }

func (m *exactMatch) update(examples []swift.Example) error {
	for _, example := range examples {
		if right(&example) {
			m.right++
		}
		m.count++
	}
	return nil
}

func right(example *swift.Example) bool {
	said, ok := example.Prediction.(swift.Text)
	for _, reference := range example.References {
		text, isText := reference.(swift.Text)
		if ok && isText && swift.Trim(string(said)) == swift.Trim(string(text)) {
			return true
		}
	}
	return false
}

func (m *exactMatch) state() ([]byte, error) {
	right, count := strconv.FormatInt(m.right, 10), strconv.FormatInt(m.count, 10)
	return []byte(`{"right":` + right + `,"count":` + count + `}`), nil
}

func (m *exactMatch) merge(state []byte) error {
	other, err := swift.Parse(string(state))
	if err != nil {
		return err
	}
	right, ok := other.Get("right").Integer()
	count, also := other.Get("count").Integer()
	if !ok || !also {
		return errors.New("the state is not one of this metric")
	}
	m.right += right
	m.count += count
	return nil
}

func (m *exactMatch) compute() ([]swift.Number, error) {
	if m.count == 0 {
		return nil, nil
	}
	return []swift.Number{{Name: "exact_match", Value: float64(m.right) / float64(m.count)}}, nil
}

func init() {
	swift.AddMetric(swift.Metric[*exactMatch]{
		Name:           "exact_match",
		Summary:        "Share of predictions that equal a reference",
		HigherIsBetter: true,
		Configure:      configure,
		Update:         (*exactMatch).update,
		State:          (*exactMatch).state,
		Merge:          (*exactMatch).merge,
		Compute:        (*exactMatch).compute,
	})
}

func main() {}
