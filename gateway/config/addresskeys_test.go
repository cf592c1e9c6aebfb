package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAddressKeys(t *testing.T) {
	name := filepath.Join(t.TempDir(), "keys")
	load := func(text string) ([][32]byte, error) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return LoadAddressKeys(name)
	}
	k := strings.Repeat("ab", 32)
	keys, err := load("# newest first\n" + k + "\r\n\n " + strings.Repeat("01", 32))
	if err != nil || len(keys) != 2 || keys[0][31] != 0xab || keys[1][0] != 1 {
		t.Fatalf("%x, %v", keys, err)
	}
	for text, want := range map[string]string{
		"": "no key in it", "# none\n": "no key in it", "abc": ":1: 3 characters", k + "\nzz" + k[2:]: ":2: not hexadecimal",
		strings.Repeat(k+"\n", 17): ":17: more than 16 keys", strings.Repeat("#", 70<<10): "larger than",
	} {
		if _, err := load(text); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), name) {
			t.Errorf("%.20q: %v, want %q", text, err, want)
		}
	}
}

func FuzzAddressKeys(f *testing.F) {
	f.Add([]byte("#\n" + strings.Repeat("0f", 32)))
	f.Fuzz(func(t *testing.T, text []byte) {
		if keys, err := parseAddressKeys(text); err == nil && (len(keys) == 0 || len(keys) > maxAddressKeys) {
			t.Errorf("%d keys", len(keys))
		}
	})
}
