package smb

import "testing"

// The table has each reason once, in order, with what a log and a metric need.
func TestReasons(t *testing.T) {
	labels := map[string]bool{}
	for i, r := range Reasons() {
		if int(r.Reason) != i || r.Label == "" || r.Cause == "" || labels[r.Label] {
			t.Errorf("row %d: %+v", i, r)
		}
		labels[r.Label] = true
	}
	if Reason(200).String() != "none" {
		t.Error("an unknown reason has a label")
	}
}
