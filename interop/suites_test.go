package interop

import _ "unsafe" // for go:linkname

// crypto/tls does not let TLS 1.3 cipher suites be chosen; it keeps these two
// lists reachable for such tests.
//
//go:linkname suitesTLS13 crypto/tls.defaultCipherSuitesTLS13
var suitesTLS13 []uint16

//go:linkname suitesTLS13NoAES crypto/tls.defaultCipherSuitesTLS13NoAES
var suitesTLS13NoAES []uint16
