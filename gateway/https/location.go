package https

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"sync"
)

// orderLocations gives the answer to a finalize request the URL of its order,
// where the authority leaves it out: RFC 8555, Section 7.4, does not ask for it
// there, and package acme polls what it finds there.
type orderLocations struct {
	next http.RoundTripper

	mu     sync.Mutex
	orders map[string]string // by finalize URL; emptied when there are too many
}

const (
	maxOrders    = 64
	maxOrderBody = 1 << 20
)

// RoundTrip implements http.RoundTripper.
func (o *orderLocations) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := o.next.RoundTrip(r)
	if err != nil || r.Method != http.MethodPost {
		return resp, err
	}
	o.mu.Lock()
	known := o.orders[r.URL.String()]
	o.mu.Unlock()
	if known != "" && resp.Header.Get("Location") == "" {
		resp.Header.Set("Location", known)
	}
	if at := resp.Header.Get("Location"); resp.StatusCode == http.StatusCreated && at != "" {
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxOrderBody))
		_ = resp.Body.Close()
		if err != nil {
			return nil, err
		}
		resp.Body = io.NopCloser(bytes.NewReader(body))
		var order struct{ Finalize string }
		if json.Unmarshal(body, &order) == nil && order.Finalize != "" {
			o.mu.Lock()
			if o.orders == nil || len(o.orders) >= maxOrders {
				o.orders = make(map[string]string)
			}
			o.orders[order.Finalize] = at
			o.mu.Unlock()
		}
	}
	return resp, nil
}
