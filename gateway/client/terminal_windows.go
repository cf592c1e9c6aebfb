package client

import (
	"os"

	"golang.org/x/sys/windows"
)

// terminalWidth returns the columns of a console, and false where f is none.
func terminalWidth(f *os.File) (int, bool) {
	var i windows.ConsoleScreenBufferInfo
	if err := windows.GetConsoleScreenBufferInfo(windows.Handle(f.Fd()), &i); err != nil {
		return 0, false
	}
	return int(i.Window.Right-i.Window.Left) + 1, true
}
