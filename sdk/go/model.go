package swift

import (
	"errors"
	"slices"
	"strings"
)

// What of a component's model families the host is told: which one claims a config, and its graph. How that crosses the
// contract is not known here.

var families []Family

// AddFamily makes a model family known. Call it in an init function.
func AddFamily(f Family) {
	if len(f.ModelTypes) == 0 || f.Build == nil {
		panic("a model family needs ModelTypes and Build")
	}
	if f.Tasks == nil {
		f.Tasks = []string{"causal-lm"}
	}
	families = append(families, f)
}

// claimed is the family that builds this config, and the name to call it by. It never fails: what cannot be read is not
// claimed.
func claimed(text string) (family *Family, name string) {
	config, err := ParseConfig(text)
	if err != nil {
		return nil, ""
	}
	given := config.value("model_type")
	modelType, ok := given.Text()
	if given != nil && !ok {
		return nil, ""
	}
	for i := range families {
		family := &families[i]
		if given != nil && slices.Contains(family.ModelTypes, modelType) {
			return family, modelType
		}
		if given != nil {
			continue
		}
		for _, architecture := range config.value("architectures").Items() {
			if slices.Contains(family.Architectures, architecture.text) {
				return family, family.ModelTypes[0]
			}
		}
	}
	return nil, ""
}

// buildGraph traces a model.
func buildGraph(text, task string, host builder) (err error) {
	config, err := ParseConfig(text)
	if err != nil {
		return err
	}
	family, _ := claimed(text)
	if family == nil {
		return errors.New("config.json: neither `model_type` nor `architectures` is of a family of this plugin")
	}
	if !slices.Contains(family.Tasks, task) {
		return errors.New("the task `" + task + "` is not built; this family builds " + strings.Join(family.Tasks, ", "))
	}
	defer func() {
		switch value := recover().(type) {
		case nil:
		case buildError:
			err = value
		default: // a mistake in the plugin, with its place
			err = errors.New(panicText(value))
		}
	}()
	return family.Build(&Graph{host: host}, config)
}
