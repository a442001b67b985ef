package swift

import (
	"runtime"
	"strconv"
	"strings"
)

// panicText is what a recovered panic says, and where it was. Call it in the deferred function that recovers.
func panicText(value any) string {
	text := "a panic"
	switch value := value.(type) {
	case error:
		text = value.Error()
	case string:
		text = value
	case interface{ String() string }:
		text = value.String()
	case int:
		text = strconv.Itoa(value)
	}
	callers := make([]uintptr, 32)
	frames := runtime.CallersFrames(callers[:runtime.Callers(2, callers)])
	panicked := false
	for {
		frame, more := frames.Next()
		inRuntime := strings.HasPrefix(frame.Function, "runtime.")
		if panicked && !inRuntime {
			return strings.TrimPrefix(frame.File, "plugin/") + ":" + strconv.Itoa(frame.Line) + ": " + text
		}
		panicked = panicked || frame.Function == "runtime.gopanic"
		if !more {
			return text
		}
	}
}
