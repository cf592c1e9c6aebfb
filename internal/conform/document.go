package conform

import (
	"fmt"
	"strings"
)

var titles = map[int]string{
	9000: "QUIC: A UDP-Based Multiplexed and Secure Transport",
	9001: "Using TLS to Secure QUIC",
	9002: "QUIC Loss Detection and Congestion Control",
	9221: "An Unreliable Datagram Extension to QUIC",
	9287: "Greasing the QUIC Bit",
	9368: "Compatible Version Negotiation for QUIC",
	9369: "QUIC Version 2",
}

const intro = `# Conformance

<!-- written by make generate from internal/conform; do not edit -->

Every sentence of seven RFCs that says MUST, MUST NOT, REQUIRED, SHALL or SHALL
NOT: where the code meets it, and the test that shows it. The places are those
whose comments quote the sentence; a test compares each quote with the RFC, and
this document with both:

    go test ./internal/conform

%s
Statuses:

- **met**: by code that quotes the requirement, shown by the tests named;
- **library**: by crypto/tls or the kernel, in the way they are used here;
- **unused**: it is about a feature that is never used here, so that nothing can violate it;
- **other**: it addresses somebody else: applications, deployments, authors of standards, IANA;
- **open**: not walked through yet, nothing is claimed;
- **exception**: not met, and why. There may be %d of them at most.

RFC %s are quoted from texts with these SHA-256 digests (unpaginated, as the working group rendered them):

%s
`

// Document writes docs/conformance.md.
func Document(r *Requirements, audit map[string]Entry, c *Coverage) string {
	var b strings.Builder
	numbers, digests := make([]string, len(RFCs)), ""
	for i, n := range RFCs {
		numbers[i] = fmt.Sprint(n)
		digests += fmt.Sprintf("    %d %s\n", n, r.Digest[n])
	}
	fmt.Fprintf(&b, intro, summary(r, audit), MaxExceptions, strings.Join(numbers, ", "), digests)
	b.WriteString("## Exceptions\n\n")
	for _, s := range r.Sentences {
		if e := audit[s.ID()]; s.N > 0 && e.Status == Exception {
			fmt.Fprintf(&b, "- **%s** %s\n\n  > %s\n\n", s.ID(), escape(e.Note), escape(s.Text))
		}
	}
	rfc := 0
	for _, s := range r.Sentences {
		if s.N == 0 {
			continue
		}
		if s.RFC != rfc {
			rfc = s.RFC
			fmt.Fprintf(&b, "\n## RFC %d: %s\n\n| Requirement | Status | Where | Tests |\n|---|---|---|---|\n", rfc, titles[rfc])
		}
		row(&b, &s, audit[s.ID()], c)
	}
	return b.String()
}

// row writes one requirement.
func row(b *strings.Builder, s *Sentence, e Entry, c *Coverage) {
	where, tests := "", ""
	for i, p := range c.Places[s.ID()] {
		if i > 0 {
			where += "<br>"
		}
		file, name, _ := strings.Cut(p, " ")
		where += fmt.Sprintf("[%s](../%s) `%s`", file, file, name)
	}
	if e.Status != Met {
		where = escape(e.Note)
	} else if e.Note != "" {
		where += "<br>" + escape(e.Note)
	}
	for i, t := range AllTests(e, c) {
		if i > 0 {
			tests += "<br>"
		}
		tests += "`" + t + "`"
	}
	id := fmt.Sprintf("[%s](https://www.rfc-editor.org/rfc/rfc%d#section-%s)", s.ID(), s.RFC, s.Section)
	fmt.Fprintf(b, "| %s %s | %s | %s | %s |\n", id, escape(s.Text), e.Status, where, tests)
}

// AllTests are those that audit.txt names, and those that quote the requirement.
func AllTests(e Entry, c *Coverage) []string {
	tests := append([]string(nil), e.Tests...)
	for _, t := range c.Tests[e.ID] {
		m := map[string][]string{"": tests}
		add(m, "", t)
		tests = m[""]
	}
	return tests
}

func summary(r *Requirements, audit map[string]Entry) string {
	count := map[int]map[Status]int{}
	for _, s := range r.Sentences {
		if s.N == 0 {
			continue
		}
		if count[s.RFC] == nil {
			count[s.RFC] = map[Status]int{}
		}
		count[s.RFC][audit[s.ID()].Status]++
		count[s.RFC]["all"]++
	}
	statuses := []Status{"all", Met, Library, Unused, Other, Open, Exception}
	out := "| RFC | requirements | met | library | unused | other | open | exception |\n|---|---|---|---|---|---|---|---|\n"
	total := map[Status]int{}
	line := func(name string, m map[Status]int) {
		out += "| " + name
		for _, s := range statuses {
			out += fmt.Sprintf(" | %d", m[s])
			total[s] += m[s]
		}
		out += " |\n"
	}
	for _, n := range RFCs {
		line(fmt.Sprint(n), count[n])
	}
	line("**all**", total)
	return out
}

func escape(s string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", ">", "&gt;", "*", `\*`, "[", `\[`, "]", `\]`).Replace(s)
}
