/* The one table of reasons. Every packet that is dropped, held, released or refused is counted under one of these:
 * the feed's strings, the metric labels and the manual's table come from here, and nothing is dropped without one.
 *
 * X(NAME, "label", ACTION, "what it means to an operator")   ACTION: DROP, HOLD, RELEASE, REFUSE, TEMPFAIL or PASS */
#ifndef FT_BASE_REASON_H
#define FT_BASE_REASON_H

#define FT_REASONS(X)                                                                                                \
	/* passed */                                                                                                 \
	X(PASS_UNINSPECTED, "pass.uninspected", PASS, "the service is not inspected")                                \
	X(PASS_SETTLED, "pass.settled", PASS, "the flow showed nothing suspicious and its triggers look at starts only") \
	X(PASS_INSPECTED, "pass.inspected", PASS, "inspected; nothing suspicious in this packet")                    \
	X(PASS_OUTBOUND, "pass.outbound", PASS, "the guest's own output")                                            \
	X(PASS_OBSERVED, "pass.observed", PASS, "suspicious, but the service only observes: tried in the background") \
	X(PASS_SHADOW, "pass.shadow", PASS, "suspicious, but the service is in shadow mode: tried, and what enforce would have done is counted") \
	X(PASS_SUPPRESSED, "pass.suppressed", PASS, "suspicious, but an operator suppressed that for this rule, network or service") \
	X(PASS_BYPASS, "pass.bypass", PASS, "an operator has switched inspection off (bypass)")                       \
	X(PASS_UNSEEN, "pass.unseen", PASS, "a service that only observes: what cannot be looked at passes (IPv6 headers that hide the port, full flow table)") \
	X(PASS_IPSEC, "pass.ipsec", PASS, "AH or ESP: only who has the guest's keys could look behind it")             \
	X(PASS_ICMP, "pass.icmp", PASS, "ICMP error about a connection of an inspected service")                     \
	X(PASS_ACK, "pass.ack", PASS, "acknowledgement of a held or early segment, sent on without its data")        \
	X(PASS_PROBE, "pass.probe", PASS, "probe of a closed window, sent on without its byte")                      \
	X(PASS_SACK, "pass.sack", PASS, "the gateway's duplicate acknowledgement to a client whose segments came early") \
	/* held */                                                                                                   \
	X(HOLD_RULE, "hold.rule", HOLD, "a pattern rule matched")                                                    \
	X(HOLD_RISK, "hold.risk", HOLD, "the protocol inspection reported a severe risk")                            \
	X(HOLD_ALL, "hold.all", HOLD, "the service screens everything")                                              \
	X(HOLD_JOIN, "hold.join", HOLD, "later packet of a flow that is being held")                                 \
	X(HOLD_EARLY, "hold.early", HOLD, "bytes behind a gap, or for which the hold has no room yet: they wait for their turn") \
	X(HOLD_FRAGMENT, "hold.fragment", HOLD, "fragment that waits for the rest of its datagram")                 \
	X(HOLD_CANARY, "hold.canary", HOLD, "input of the gateway's self-test to a service without patterns")         \
	X(HOLD_OVERLAP, "hold.overlap", HOLD, "a retransmission carried different bytes for the same sequence numbers") \
	/* released */                                                                                               \
	X(RELEASE_CLEAN, "release.clean", RELEASE, "a clone took exactly these frames and showed nothing wrong")     \
	X(RELEASE_SUSPICIOUS, "release.suspicious", RELEASE, "a rule objects to what a clone did, but not as to an attack; the service's on_suspicious says release") \
	X(RELEASE_TIMEOUT, "release.timeout", RELEASE, "no verdict in time; the service's on_timeout says release")  \
	X(RELEASE_ERROR, "release.error", RELEASE, "the trial failed or proved nothing; the service's on_error says release") \
	X(RELEASE_OVERLOAD, "release.overload", RELEASE, "a limit was reached; the service's on_overload says release") \
	X(RELEASE_OVERSIZE, "release.oversize", RELEASE, "more input than may be tried; the service's on_oversize says release") \
	X(RELEASE_BYPASS, "release.bypass", RELEASE, "an operator switched inspection off while it was held")        \
	X(RELEASE_OPERATOR, "release.operator", RELEASE, "an operator released it; the trial was given up")          \
	X(RELEASE_LEDGER, "release.ledger", RELEASE, "the ledger did not make the decision durable in time; log.on_failure says release") \
	X(RELEASE_SHUTDOWN, "release.shutdown", RELEASE, "the gateway stops and the service's on_error says release") \
	/* dropped by verdict or policy */                                                                           \
	X(DROP_VERDICT, "drop.verdict", DROP, "a clone that took these frames was compromised")                      \
	X(DROP_TIMEOUT_POLICY, "drop.timeout", DROP, "no verdict in time; the service's on_timeout says drop")       \
	X(DROP_ERROR_POLICY, "drop.error", DROP, "the trial failed or proved nothing; the service's on_error says drop") \
	X(DROP_OVERLOAD_POLICY, "drop.overload", DROP, "a limit was reached; the service's on_overload says drop")   \
	X(DROP_OVERSIZE_POLICY, "drop.input-oversize", DROP, "more input than may be tried; the service's on_oversize says drop") \
	X(DROP_OPERATOR, "drop.operator", DROP, "an operator dropped it; the trial was given up")                    \
	X(DROP_LEDGER, "drop.ledger", DROP, "to be released, but the ledger did not make that durable in time; log.on_failure says drop") \
	X(DROP_SHUTDOWN, "drop.shutdown", DROP, "the gateway stops and the service's on_error says drop")            \
	X(DROP_CANARY, "drop.canary", DROP, "the gateway's self-test: its input after the trial, and what the guest sends to it") \
	X(DROP_CANARY_ADDRESS, "drop.canary-address", DROP, "somebody else's packet from the address that is the self-test's") \
	X(DROP_FLOW_DEAD, "drop.flow-dead", DROP, "later packet of a flow that was dropped")                         \
	X(DROP_SYN_DATA, "drop.syn-data", DROP, "data in a SYN is stripped; the sender sends it again")              \
	X(DROP_HOLD_DUPLICATE, "drop.hold-duplicate", DROP, "retransmission of bytes that are held already")         \
	X(DROP_HOLD_LIMIT, "drop.hold-limit", DROP, "the hold is at its limit; the sender sends it again")           \
	X(DROP_OUT_OF_WINDOW, "drop.out-of-window", DROP, "sequence numbers outside what the flow can take")         \
	X(DROP_OUT_OF_ORDER, "drop.out-of-order", DROP, "no room for bytes behind a gap; the sender sends them again") \
	X(DROP_EARLY_DUPLICATE, "drop.early-duplicate", DROP, "retransmission of bytes behind a gap that are kept already") \
	X(DROP_EARLY_OVERLAP, "drop.early-overlap", DROP, "other bytes for the same sequence numbers behind a gap: the first are kept, and will be held") \
	X(DROP_EARLY_TIMEOUT, "drop.early-timeout", DROP, "bytes behind a gap that did not close in time")       \
	X(DROP_EARLY_END, "drop.early-end", DROP, "bytes behind a gap when the connection, or its being inspected, came to an end") \
	X(DROP_NO_FLOW, "drop.no-flow", DROP, "a segment of an inspected service that belongs to no known connection") \
	/* not taken, so that the sender tries again later */                                                        \
	X(TEMPFAIL_TIMEOUT, "tempfail.timeout", TEMPFAIL, "no verdict in time; the service's on_timeout says tempfail") \
	X(TEMPFAIL_ERROR, "tempfail.error", TEMPFAIL, "the trial failed or proved nothing; the service's on_error says tempfail") \
	X(TEMPFAIL_OVERLOAD, "tempfail.overload", TEMPFAIL, "a limit was reached; the service's on_overload says tempfail") \
	X(TEMPFAIL_OVERSIZE, "tempfail.oversize", TEMPFAIL, "more input than may be tried; the service's on_oversize says tempfail") \
	X(TEMPFAIL_SHUTDOWN, "tempfail.shutdown", TEMPFAIL, "the gateway stops and the service's on_error says tempfail") \
	X(TEMPFAIL_BEHIND, "tempfail.behind", TEMPFAIL, "bytes behind some that were not taken")                     \
	/* refused: not handled by this version on inspected services */                                             \
	X(REFUSE_EXTENSION, "refuse.extension", REFUSE, "IPv6 headers that cannot be looked behind (unknown, more than eight, routing with a way to go), perhaps to a service in enforce mode") \
	/* fragments that may be for an inspected service */                                                         \
	X(DROP_FRAGMENT_OVERLAP, "drop.fragment-overlap", DROP, "fragments that overlap or contradict each other: the datagram is given up (RFC 5722)") \
	X(DROP_FRAGMENT_TINY, "drop.fragment-tiny", DROP, "first fragment too small to say for whom it is (RFC 1858, RFC 7112)") \
	X(DROP_FRAGMENT_LIMIT, "drop.fragment-limit", DROP, "more fragments than are kept: of a datagram, of a source, or in all") \
	X(DROP_FRAGMENT_TIMEOUT, "drop.fragment-timeout", DROP, "the rest of the datagram did not come in time") \
	/* ICMP errors about inspected services */                                                                   \
	X(DROP_ICMP_NO_FLOW, "drop.icmp-no-flow", DROP, "ICMP error about a connection of an inspected service that does not exist, or numbers that it does not use") \
	X(DROP_ICMP_HELD, "drop.icmp-held", DROP, "ICMP error about a flow that is being held; it comes again if it stays true") \
	/* malformed or impossible */                                                                                \
	X(DROP_RUNT, "drop.runt", DROP, "frame shorter than its headers")                                            \
	X(DROP_MALFORMED, "drop.malformed", DROP, "header fields contradict each other")                             \
	X(DROP_CHECKSUM, "drop.checksum", DROP, "wrong checksum")                                                    \
	X(DROP_NOT_OURS, "drop.not-ours", DROP, "no guest has this destination MAC, or is in this VLAN")             \
	X(DROP_SPOOFED, "drop.spoofed", DROP, "a guest sent a frame under another MAC address than its own")         \
	X(DROP_GUEST_TAG, "drop.guest-tag", DROP, "a guest that is in one VLAN sent a frame with a tag of its own")  \
	/* resources */                                                                                              \
	X(DROP_RING_FULL, "drop.ring-full", DROP, "the guest does not take its frames fast enough")                  \
	X(DROP_TX_FULL, "drop.tx-full", DROP, "the port does not take frames fast enough")                           \
	X(DROP_NO_MEMORY, "drop.no-memory", DROP, "no packet buffer left")                                           \
	X(DROP_FLOW_TABLE, "drop.flow-table", DROP, "the flow table is full")                                        \
	X(DROP_GUEST_DOWN, "drop.guest-down", DROP, "the guest is not running")                                      \
	X(DROP_ISOLATED, "drop.isolated", DROP, "the guest was restored from a snapshot and its network is not attached")   \
	X(DROP_OVERSIZE, "drop.oversize", DROP, "frame larger than the guest's MTU, the port or a ring record takes")

enum ft_reason {
#define X(name, label, action, text) FT_REASON_##name,
	FT_REASONS(X)
#undef X
		FT_REASON_COUNT
};

enum ft_reason_action {
	FT_REASON_ACTION_PASS,
	FT_REASON_ACTION_HOLD,
	FT_REASON_ACTION_RELEASE,
	FT_REASON_ACTION_REFUSE,
	FT_REASON_ACTION_DROP,
	FT_REASON_ACTION_TEMPFAIL
};

/* label: stable, for the feed and metrics. text: for people. Out-of-range values give "unknown". */
const char *ft_reason_label(enum ft_reason reason);
const char *ft_reason_text(enum ft_reason reason);
enum ft_reason_action ft_reason_action(enum ft_reason reason);

#endif
