package conform

import "testing"

// TestQuotes: what comments quote of the RFCs is their text.
func TestQuotes(t *testing.T) {
	r, err := ReadRequirements("requirements.txt")
	if err != nil {
		t.Fatal(err)
	}
	quotes, err := Quotes("../..")
	if err != nil {
		t.Fatal(err)
	}
	if len(quotes) < 200 {
		t.Fatalf("only %d quotes found", len(quotes))
	}
	for _, q := range Cover(r, quotes).Wrong {
		t.Errorf("%s:%d: RFC %d, Section %s does not say %q (if it does: go run ./internal/conform/extract)", q.File, q.Line, q.RFC, q.Section, q.Parts)
	}
}
