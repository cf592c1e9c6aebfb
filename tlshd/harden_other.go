//go:build !linux

package tlshd

import (
	"errors"
	"os"
	"syscall"
)

const isolationLevels = 0

func sysProcAttr(int, *Config) *syscall.SysProcAttr { return nil }

func noNewPrivsThread() {}

func yieldThread() {}

func restrictHelperThread() error { return errors.ErrUnsupported }

func unlimitLocking(int) {}

func ownExecutable() (string, error) { return os.Executable() }

// harden does what exists everywhere, which is nothing; asking for another user
// is then an error rather than ignored.
func harden(cfg Config, _ bool) ([]string, error) {
	if cfg.User != "" || cfg.Group != "" {
		return nil, errors.New("tlshd: user and group: only on Linux")
	}
	return nil, nil
}

// Harden does nothing on this system.
func Harden(cfg Config) ([]string, error) { return harden(cfg, false) }
