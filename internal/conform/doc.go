// Package conform holds the transport against the text of its seven RFCs: 9000,
// 9001, 9002, 9221, 9287, 9368 and 9369.
//
// requirements.txt has every sentence of them with MUST, MUST NOT, REQUIRED,
// SHALL or SHALL NOT, and every other sentence that a comment in this
// repository quotes. Command extract writes it from the RFCs' text, which is
// not kept here. audit.txt says of each requirement how it is met: by which
// test, and the places in the code are those that quote it. The tests of this
// package compare the three, and write docs/conformance.md (make generate).
package conform
