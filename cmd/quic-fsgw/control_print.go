package main

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/quic-fsgw/quic-fsgw/gateway"
	"github.com/quic-fsgw/quic-fsgw/gateway/client"
)

// printStatus shows a status to a person.
func printStatus(io stdio, raw json.RawMessage) error {
	var st gateway.Status
	if err := json.Unmarshal(raw, &st); err != nil {
		return fmt.Errorf("status: %w", err)
	}
	state := "serving"
	if st.Draining {
		state = "draining"
	}
	fmt.Fprintf(io.out, "%s for %s, configuration %d, %d connections\n\n", state, st.Uptime, st.Generation, len(st.Connections))
	w := tabwriter.NewWriter(io.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ROUTE\tKIND\tSESSIONS\tBACKENDS")
	for _, r := range st.Routes {
		backends := ""
		for _, b := range r.Backends {
			up := "up"
			if !b.Up {
				up = "down: " + client.PrintableName(b.LastError)
			}
			backends += fmt.Sprintf("%s (%s) ", b.Address, up)
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", r.Name, r.Kind, r.Sessions, backends)
	}
	if len(st.Connections) > 0 {
		fmt.Fprintln(w, "\nCONNECTION\tROUTE\tREMOTE\tCLIENT\tBACKEND\tAGE\tIN\tOUT\tRTT")
	}
	for _, c := range st.Connections {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.1f ms\n", c.ID, c.Route, c.Remote, client.PrintableName(c.Client), c.Backend, c.Age,
			client.HumanSize(c.BytesIn), client.HumanSize(c.BytesOut), c.RTTms)
	}
	return w.Flush()
}
