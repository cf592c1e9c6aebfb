module github.com/quic-fsgw/quic-fsgw/interop

go 1.26.0

require (
	github.com/quic-fsgw/quic-fsgw v0.0.0
	github.com/quic-go/quic-go v0.65.0
	golang.org/x/net v0.62.0
	golang.org/x/sys v0.49.0
)

require golang.org/x/crypto v0.58.0 // indirect

replace github.com/quic-fsgw/quic-fsgw => ../
