package swift

import (
	"errors"
	"strconv"
	"strings"
)

// Settings are what the user set for the plugin. A value of another type, and a setting that was never asked for, are errors
// that name the key: nothing the user wrote is ignored. null counts as absent.
type Settings struct {
	object *Value
	asked  []string
	wrong  error // the first value of another type
	// fromTokenizer says that the host adds all of the tokenizer's special tokens, whatever a template makes of them.
	fromTokenizer bool
}

// ParseSettings reads the text of a JSON object; for tests, as swift makes a plugin's settings.
func ParseSettings(text string) (*Settings, error) {
	object, err := Parse(text)
	if err != nil || object.Kind != Object {
		return nil, errors.New("the settings are not a JSON object")
	}
	return &Settings{object: object}, nil
}

// Value is any value; nil when it is not set.
func (s *Settings) Value(key string) *Value {
	known := false
	for _, asked := range s.asked {
		known = known || asked == key
	}
	if !known {
		s.asked = append(s.asked, key)
	}
	if value := s.object.Get(key); value != nil && value.Kind != Null {
		return value
	}
	return nil
}

func setting[T any](s *Settings, key string, fallback T, needed string, read func(*Value) (T, bool)) T {
	value := s.Value(key)
	if value == nil {
		return fallback
	}
	found, ok := read(value)
	if !ok && s.wrong == nil {
		s.wrong = errors.New("the setting `" + key + "` is " + show(value) + ", " + needed + " is needed")
	}
	return found
}

// Bool is true or false.
func (s *Settings) Bool(key string, fallback bool) bool {
	return setting(s, key, fallback, "true or false", (*Value).Bool)
}

// Number is a finite number.
func (s *Settings) Number(key string, fallback float64) float64 {
	return setting(s, key, fallback, "a number", (*Value).Number)
}

// Integer is a whole number.
func (s *Settings) Integer(key string, fallback int64) int64 {
	return setting(s, key, fallback, "a whole number", (*Value).Integer)
}

// Text is a text.
func (s *Settings) Text(key, fallback string) string {
	return setting(s, key, fallback, "a text", (*Value).Text)
}

// Refused is why the settings cannot be used, if they cannot: swift asks once a plugin is configured.
func (s *Settings) Refused() error {
	if s.wrong != nil {
		return s.wrong
	}
	for _, entry := range s.object.Items() {
		known := s.fromTokenizer && (strings.HasSuffix(entry.Key, "_token") || strings.HasSuffix(entry.Key, "_special_tokens"))
		for _, asked := range s.asked {
			known = known || asked == entry.Key
		}
		if known {
			continue
		}
		there := "none"
		if last := len(s.asked) - 1; last == 0 {
			there = "`" + s.asked[0] + "`"
		} else if last > 0 {
			there = "`" + strings.Join(s.asked[:last], "`, `") + "` and `" + s.asked[last] + "`"
		}
		return errors.New("there is no setting `" + entry.Key + "`; there are " + there)
	}
	return nil
}

// show is how a value is named in an error.
func show(value *Value) string {
	switch value.Kind {
	case Array:
		return "a list of " + strconv.Itoa(len(value.items))
	case Object:
		return "an object"
	default:
		return value.Source
	}
}
