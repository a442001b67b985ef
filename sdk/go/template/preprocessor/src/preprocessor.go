// A row preprocessor: rows with instruction, input and output to messages.
package main

import "swift"

func process(_ struct{}, row *swift.Value) swift.Rows {
	question, ok := row.Get("instruction").Text()
	if !ok {
		return swift.Drop("no instruction")
	}
	answer, _ := row.Get("output").Text()
	if answer == "" {
		return swift.Drop("no answer")
	}
	if input, _ := row.Get("input").Text(); input != "" {
		question += "\n" + input
	}
	return swift.Row(`{"messages":[` + message("user", question) + `,` + message("assistant", answer) + `]}`)
}

func message(role, content string) string {
	return `{"role":` + swift.Quote(role) + `,"content":` + swift.Quote(content) + `}`
}

func init() {
	swift.AddPreprocessor(swift.Preprocessor[struct{}]{
		Name:    "alpaca",
		Summary: "Rows with instruction, input and output to messages",
		Process: process,
	})
}

func main() {}
