// Package backend keeps what is known of the servers behind a route: which of
// them work, which one a client goes to, and how each is reached over TCP. It
// knows nothing of the protocols that are spoken there; packages smb and nfs
// ask it for an order, try, and tell it what came of it.
package backend
