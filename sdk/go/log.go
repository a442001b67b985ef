package swift

// Debug writes a line that `swift plugin test` and debug logs show.
func Debug(message string) { hostLog(0, message) }

// Info writes a line for the user.
func Info(message string) { hostLog(1, message) }

// Warn writes a warning for the user.
func Warn(message string) { hostLog(2, message) }
