#include "gateway/keys.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "gateway/suggest.h"

#define NONE "none"

const struct ft_key ft_keys[] = {
    {"sensor", FT_KEY_TEXT, NULL, "foretaste", NULL, "Name of this gateway in the feed."},
    {"state", FT_KEY_PATH, NULL, "/var/lib/foretaste", NULL,
     "Directory for what outlives a run: feed, quarantine, console logs. Made when missing."},
    {"control", FT_KEY_PATH, NULL, "/run/foretaste/control.sock", NULL,
     "Socket that the command line talks to. Only root may use it."},
    {"uid_base", FT_KEY_WHOLE, "1000..4294900000", "64000", NULL,
     "Each process runs under a uid and gid of its own, counted from here; they need no names."},
    {"flows", FT_KEY_WHOLE, "64..4194304", "65536", NULL,
     "Connections that the gateway can follow at a time. Others are refused, and counted."},

    {"uplinks", FT_KEY_MAP, NULL, NULL, NULL,
     "The ports where clients come from, by name; at most 16. Who has one may write \"uplink: {port: ...}\"."},
    {"uplinks.*", FT_KEY_MAP, NULL, NULL, "wan", NULL},
    {"uplinks.*.port", FT_KEY_TEXT, NULL, NULL, "net_af_packet0,iface=eth1",
     "DPDK device arguments: a virtual device, or a PCI address. Nothing else is probed. A second virtual "
     "device needs a name of its own, net_af_packet1."},
    {"uplinks.*.huge", FT_KEY_CHOICE, "auto|never", "auto", NULL,
     "Packet buffers in huge pages where there are free ones. They are common to all uplinks: never for one "
     "is never for all."},

    {"guests", FT_KEY_MAP, NULL, NULL, NULL,
     "The protected machines, by name; at most 64. Connections (flows) and memory for held input are shared out among "
     "them in equal parts."},
    {"guests.*", FT_KEY_MAP, NULL, NULL, "web", NULL},
    {"guests.*.kernel", FT_KEY_PATH, NULL, NULL, "/var/lib/foretaste/images/web/vmlinuz",
     "Linux bzImage, as Debian packages it."},
    {"guests.*.initrd", FT_KEY_PATH, NULL, NONE, NULL, "Its initramfs, or none."},
    {"guests.*.cmdline", FT_KEY_TEXT, NULL,
     "console=ttyS0 root=/dev/vda rw psi=0 nowatchdog sysctl.vm.compaction_proactiveness=0 sysctl.vm.stat_interval=120", NULL,
     "Kernel command line. What is in it by default behind the root keeps an idle Linux from waking up several times a second, all "
     "of which each clone runs through up to its horizon: a quarter of the instructions is left."},
    {"guests.*.memory", FT_KEY_SIZE, "64 MiB..3 GiB", "256 MiB", NULL, "RAM."},
    {"guests.*.vcpus", FT_KEY_WHOLE, "1..16", "1", NULL,
     "Processors. More than one need engine kvm or auto, and clone.engine kvm: the software CPU is one processor, so such a guest's clones "
     "cannot run on it, and show their network, disk and console alone. Nor can there be a journal."},
    {"guests.*.engine", FT_KEY_CHOICE, "auto|kvm|soft", "soft", NULL,
     "What executes the guest's instructions. kvm: the host's processor, by /dev/kvm. soft: the software CPU, which sees each "
     "instruction. auto: kvm where the host has one that is worth it (it is tried, for a few milliseconds, before each start) and the "
     "guest needs nothing that counts instructions (journal, the free clock), else soft; the log says why."},
    {"guests.*.clone", FT_KEY_MAP, NULL, NULL, NULL, "Its clones; their budgets are below clone."},
    {"guests.*.clone.engine", FT_KEY_CHOICE, "soft|kvm", "soft", NULL,
     "What executes the instructions of a clone of a guest on engine kvm. soft shows what it does, system call by system call, which is what "
     "the rules for verdicts judge by. kvm is faster and shows its network, disk and console alone: for services whose attacks show there."},
    {"guests.*.portable", FT_KEY_CHOICE, "true|false", "true", NULL,
     "true: the guest has the same instructions on every engine and host, and keeps what it was told of its processor where it began. false: it "
     "has all instructions of this host's own (AVX, AES), for which engine and clone.engine have to be kvm. What that costs: it cannot be saved as a snapshot, nor go on on another host or engine; its "
     "clones show their network, disk and console alone; and seeds are not kept for a later look."},
    {"guests.*.clock", FT_KEY_CHOICE, "live|free", "live", NULL,
     "live follows wall time; free counts instructions, for exactness tests."},
    {"guests.*.ns_per_insn", FT_KEY_REAL, "0.05..100", "0.25", NULL,
     "Virtual nanoseconds that one instruction takes: the guest's idea of its own speed."},
    {"guests.*.verify", FT_KEY_CHOICE, "off|on", "off", NULL,
     "on: an independent check of all translated code before it runs, at the price of translating half as "
     "fast."},
    {"guests.*.disk", FT_KEY_PATH, NULL, NONE, NULL,
     "Disk image, or none. Only read: what the guest writes is kept beside it, see overlay."},
    {"guests.*.overlay", FT_KEY_MAP, NULL, NULL, NULL,
     "What the guest writes to its disk, in the file disks/NAME below state. It belongs to this very image: with another one the guest "
     "does not start."},
    {"guests.*.overlay.keep", FT_KEY_CHOICE, "on|off", "on", NULL,
     "on: what it has written and flushed outlives its restarts, crashes and power cuts. off: it stays in memory and ends with the guest, "
     "which begins from its image each time."},
    {"guests.*.overlay.quota", FT_KEY_SIZE, "64 MiB..16 TiB", NONE, NULL,
     "Largest size of the file. When it is full of what is current, the guest's writes fail with I/O errors, and the feed says so. none: "
     "twice the image and 128 MiB, with which that does not happen."},
    {"guests.*.overlay.retention", FT_KEY_DURATION, "0 s..8760 h", "24 h", NULL,
     "How long what was overwritten can still be asked for (`foretaste disk history`), as far as the quota has room for it."},
    {"guests.*.mac", FT_KEY_MAC, NULL, NULL, "52:54:00:00:02:0f", "Ethernet address of its network card."},
    {"guests.*.address", FT_KEY_ADDRESS, NULL, NULL, "10.0.2.15", "IPv4 address that the guest has."},
    {"guests.*.address6", FT_KEY_ADDRESS6, NULL, NONE, NULL, "IPv6 address that the guest has, besides."},
    {"guests.*.canary", FT_KEY_ADDRESS, NULL, "192.0.0.8", NULL,
     "The address that the self-test of its services comes from (see canary). The best is one of the guest's own network that "
     "no machine has: the gateway answers for it, and nobody else takes part. 192.0.0.8, which no machine has (RFC 7600), "
     "needs a default route in the guest and a router that answers there."},
    {"guests.*.canary6", FT_KEY_ADDRESS6, NULL, NONE, NULL,
     "The same for IPv6, for a guest with address6: its services are tested over IPv6 as well. none: over IPv4 alone."},
    {"guests.*.mtu", FT_KEY_WHOLE, "1280..9000", "1500", NULL,
     "Largest IP packet of its network card. Above 1500: jumbo frames, where the uplink has them, too."},
    {"guests.*.uplink", FT_KEY_TEXT, NULL, NONE, NULL,
     "The uplink that it is on. May be left out when there is one."},
    {"guests.*.vlan", FT_KEY_VLAN, "untagged|trunk", "untagged", NULL,
     "Its VLAN on that uplink: untagged frames alone, or those with this 802.1Q number (1 to 4094), which the "
     "guest sees and sends without the tag; trunk: all frames to its address with the tags that they have. "
     "Guests of one VLAN talk to each other here, through the same inspection."},
    {"guests.*.cpu", FT_KEY_PERCENT, "1..6400", NONE, NULL,
     "Most processor time of the guest and its clones together, 100 % being one processor, or none. Needs the cpu "
     "controller of cgroup v2 (systemd: Delegate=cpu); without it the gateway runs, and says that nothing is "
     "bounded."},
    {"guests.*.cpu_weight", FT_KEY_WHOLE, "1..10000", "100", NULL,
     "Its part of the processors when they are short, clones included, in proportion to the other guests' and to the gateway's "
     "own processes, which have 100 together. Needs what cpu needs."},
    {"guests.*.start", FT_KEY_CHOICE, "boot|snapshot", "boot", NULL,
     "snapshot: it goes on from its snapshot, within a second, wherever it is started; its clock shows what it showed when it was "
     "saved until somebody sets it. It boots where there is none that fits its image and configuration, after a start from it that "
     "failed, and when it reboots itself: the feed says why, and what has booted is saved anew when it is idle for the first time."},
    {"guests.*.snapshot", FT_KEY_TEXT, NULL, NONE, NULL, "The name of that snapshot; none: the guest's name and \"-start\"."},
    {"guests.*.restart", FT_KEY_CHOICE, "always|on-crash|never", "always", NULL,
     "What happens when it ends: always starts it again, on-crash does not after it powered off, never leaves "
     "it down until `foretaste guest start`. One that answers no self-test any more (see canary) is ended first, unless never."},
    {"guests.*.backoff", FT_KEY_MAP, NULL, NULL, NULL,
     "The pause before it is started again, when it did not run for 30 s: it doubles with each time."},
    {"guests.*.backoff.first", FT_KEY_DURATION, "1 ms..10 min", "200 ms", NULL, "The shortest."},
    {"guests.*.backoff.most", FT_KEY_DURATION, "1 ms..24 h", "10 s", NULL, "The longest."},
    {"guests.*.journal", FT_KEY_CHOICE, "off|on", "off", NULL,
     "on: everything that the guest is given is recorded, so that its run can be replayed exactly (`foretaste replay`, see journal). "
     "Changes with the guest's next start."},
    {"guests.*.output_commit", FT_KEY_CHOICE, "off|on", "off", NULL,
     "on: what the guest sends leaves when its journal is on disk up to there, so that after a power cut nobody has an answer that a "
     "replay could not show. Each answer waits for a sync of the disk. While the journal cannot be written, journal.on_failure: "
     "hold keeps all that the guest sends, continue lets it go and counts it."},
    {"guests.*.console", FT_KEY_STATE, NULL, "console-*.log", NULL,
     "Log of its serial console, below state; * stands for the guest's name."},

    {"services", FT_KEY_MAP, NULL, NULL, NULL,
     "What is inspected, by name. All other traffic to the guests passes untouched."},
    {"services.*", FT_KEY_MAP, NULL, NULL, "http", NULL},
    {"services.*.guest", FT_KEY_TEXT, NULL, NULL, "web", "The guest that serves it."},
    {"services.*.protocol", FT_KEY_CHOICE, "tcp|udp", "tcp", NULL, "Transport."},
    {"services.*.port", FT_KEY_WHOLE, "1..65535", NULL, "80", "Port on the guest."},
    {"services.*.mode", FT_KEY_CHOICE, "enforce|shadow|observe", "observe", NULL,
     "observe tries suspicious input in the background and holds nothing; shadow holds nothing either, but works out "
     "what enforce would have held, dropped and delayed, and reports it; enforce holds input for the verdict. "
     "`foretaste mode` switches it while the gateway runs."},
    {"services.*.screen", FT_KEY_CHOICE, "suspicious|all", "suspicious", NULL,
     "What is tried: input that a rule or risk points at, or all of it."},
    {"services.*.rules", FT_KEY_PATHS, NULL, "[rules/web.yaml]", NULL, "Files of pattern rules."},
    {"services.*.risks", FT_KEY_NAMES, "severe|none", "severe", NULL,
     "nDPI risks that make input suspicious: severe, none, or a list of risk names."},
    {"services.*.on_exception", FT_KEY_CHOICE, "drop|release|tempfail", "drop", NULL,
     "What happens to held input on which no verdict comes, for all of on_timeout, on_error, on_overload and "
     "on_oversize that do not say it themselves. drop: it never reaches the guest, its connection is reset at both "
     "ends, its packets go to quarantine. release: it goes on untried. tempfail: as if the network had lost it, so "
     "that the sender's TCP sends it again and it is tried again; where another try of the same connection cannot "
     "help, both ends are reset and the client may connect anew; a datagram is just not delivered."},
    {"services.*.on_timeout", FT_KEY_CHOICE, "drop|release|tempfail", NONE, NULL,
     "When the trial used up a budget (time, instructions, memory) or the hold its time. none: as on_exception says."},
    {"services.*.on_error", FT_KEY_CHOICE, "drop|release|tempfail", NONE, NULL,
     "When the trial failed, or proved nothing, or the guest or the gateway stops meanwhile. none: as on_exception "
     "says."},
    {"services.*.on_overload", FT_KEY_CHOICE, "drop|release|tempfail", NONE, NULL,
     "When a limit was reached: holds, held bytes, waiting for a clone, trials of one connection. none: as "
     "on_exception says."},
    {"services.*.on_oversize", FT_KEY_CHOICE, "drop|release|tempfail", NONE, NULL,
     "When a connection has more input to be tried than input_limit, or one packet more than hold_limit. none: as "
     "on_exception says."},
    {"services.*.on_suspicious", FT_KEY_CHOICE, "drop|release", "drop", NULL,
     "What a verdict of suspicious comes to: a rule objects to what the clone did, but an unlucky innocent input "
     "could have done the same. It is a verdict, so on_exception has no say in it."},
    {"services.*.gather", FT_KEY_DURATION, "0 s..1 s", "2 ms", NULL,
     "How long after the last held byte more may arrive before the trial starts."},
    {"services.*.hold_limit", FT_KEY_SIZE, "1 KiB..1 MiB", "256 KiB", NULL,
     "Most bytes of one hold. What comes beyond it of a TCP connection waits with its sender and is tried as the "
     "next piece."},
    {"services.*.input_limit", FT_KEY_SIZE, "1 KiB..1 TiB", "16 MiB", NULL,
     "Most bytes of one connection that are tried, all pieces together; then on_oversize decides."},
    {"services.*.trials_per_flow", FT_KEY_WHOLE, "1..65536", "64", NULL,
     "Most trials that one connection may cause; then on_overload decides."},
    {"services.*.holds", FT_KEY_WHOLE, "1..65536", "256", NULL,
     "Most holds of the service at a time; then on_overload decides."},
    {"services.*.held", FT_KEY_SIZE, "64 KiB..1 GiB", "16 MiB", NULL,
     "Most bytes of all its holds together; then on_overload decides."},
    {"services.*.source_holds", FT_KEY_WHOLE, "1..65536", "64", NULL,
     "Most holds of one client address (of IPv6: one /64) at a time; then on_overload decides. Raise it where one "
     "address stands for many clients, as a proxy's does."},
    {"services.*.hold_time", FT_KEY_DURATION, "100 ms..30 min", "40 s", NULL,
     "Longest time from the first held packet to the decision: on_overload decides when no trial has begun by then, "
     "on_timeout when it is not over."},
    {"services.*.clones", FT_KEY_WHOLE, "1..32", NONE, NULL,
     "Most clones at a time for its input. none: as clone.max says. Services that wait take turns in any case."},
    {"services.*.feed_limit", FT_KEY_WHOLE, "1..1000000", "6000", NULL,
     "Most holds a minute that the feed tells one by one. Of those beyond it that were clean or had no verdict only "
     "the number is told, and what was dropped of them is not kept in quarantine; what a rule objects to is always "
     "told."},
    {"services.*.quarantine", FT_KEY_SIZE, "64 KiB..1 TiB", NONE, NULL,
     "Most space of its packets in the quarantine; its own oldest files go first. none: as quarantine.quota says."},
    {"services.*.canary", FT_KEY_CHOICE, "on|off", "on", NULL,
     "Whether the service is tested by the gateway itself (see canary). off: when it does not bear a line of "
     "text that it does not understand."},
    {"services.*.canary_attack", FT_KEY_TEXT, NULL, NONE, NULL,
     "Input of at most 1024 bytes that is known to be caught, as \"GET /cgi-bin/x?a=;id HTTP/1.0\\r\\n\\r\\n\": the "
     "self-test brings it, too, on a second connection or in a second datagram, and fails when a clone is not compromised by it."},
    {"services.*.normal", FT_KEY_MAP, NULL, NULL, NULL,
     "What the service does when nothing is wrong. Anything else that a clone does is evidence against the "
     "input."},
    {"services.*.normal.may_exec", FT_KEY_NAMES, NULL, "[]", NULL,
     "Programs that it starts; * matches anything."},
    {"services.*.normal.may_connect", FT_KEY_NAMES, NULL, "[]", NULL, "Where it connects to: ADDRESS:PORT or unix:PATH."},
    {"services.*.normal.may_write", FT_KEY_NAMES, NULL, "[]", NULL,
     "Files that it writes; * matches anything."},
    {"services.*.normal.may_jit", FT_KEY_NAMES, NULL, "[]", NULL,
     "Names of its processes that compile code while they serve; * matches anything."},
    {"services.*.normal.may_uring", FT_KEY_NAMES, NULL, "[]", NULL,
     "Names of its processes that use io_uring, whose work shows no system calls; * matches anything."},

    {"clone", FT_KEY_MAP, NULL, NULL, NULL,
     "Budgets of the throw-away clones, and their sealed-off network."},
    {"clone.handling_instructions", FT_KEY_WHOLE, "1000000..1000000000000", "20000000000", NULL,
     "Most instructions until the clone has taken the input and rests. On engine kvm they are not counted: there one is what "
     "ns_per_insn says of the clone's time, here and for the horizon."},
    {"clone.horizon", FT_KEY_DURATION, "0 s..24 h", "120 s", NULL,
     "Virtual time that is watched afterwards: input that sleeps first shows itself. Idle time is skipped."},
    {"clone.horizon_instructions", FT_KEY_WHOLE, "0..1000000000000", "20000000000", NULL,
     "Most instructions within the horizon."},
    {"clone.wall", FT_KEY_DURATION, "10 ms..10 min", "10 s", NULL, "Most wall time of one trial."},
    {"clone.memory", FT_KEY_SIZE, "1 MiB..3 GiB", "128 MiB", NULL,
     "Most memory that one clone may come to differ in."},
    {"clone.max", FT_KEY_WHOLE, "1..32", "4", NULL, "Most clones at a time, of each guest."},
    {"clone.source", FT_KEY_WHOLE, "1..32", "3", NULL,
     "Most clones at a time for one client address (of IPv6: one /64), and always less than clone.max where that is "
     "more than 1. Addresses that wait take turns in any case."},
    {"clone.group", FT_KEY_WHOLE, "1..256", "256", NULL,
     "Most waiting holds of a service that one clone tries together, one after the other. When it shows nothing they are all "
     "released; else the one that made the difference is found and tried alone. 1: each has a clone of its own."},
    {"clone.parallel", FT_KEY_WHOLE, "1..32", NONE, NULL,
     "Clones of a guest that begin at a time: what comes then waits for one of them to end, or for at most 250 ms or twice what "
     "trials take, and is tried together. Until it makes a full group, clones take a quarter of the time of so many processors. "
     "none: as many as this host has."},
    {"clone.link", FT_KEY_MAP, NULL, NULL, NULL,
     "What a clone finds on its network. Nothing it sends leaves its process."},
    {"clone.link.dns", FT_KEY_ADDRESS, "refuse", "refuse", NULL,
     "Answer to its name lookups: refuse, or one address for every name."},
    {"clone.link.tcp_sink", FT_KEY_CHOICE, "refuse|accept|silent", "refuse", NULL,
     "Its own connections are refused, accepted with their bytes swallowed, or left without an answer."},
    {"clone.link.delay", FT_KEY_DURATION, "0 s..10 s", "1 ms", NULL, "Virtual time until an answer."},

    {"verdict_rules", FT_KEY_PATH, NULL, "rules/verdict.yaml", NULL,
     "Rules over what a clone did. Each set that was in force is kept, in rules below state, as long as a journal or a kept seed from its "
     "time is there: verdicts are made again by the rules that they came from."},
    {"correlation_rules", FT_KEY_PATH, NULL, "rules/correlation.yaml", NULL,
     "Rules over what the live guest does."},

    {"feed", FT_KEY_MAP, NULL, NULL, NULL, "The verdict feed: EVE JSON, one event a line."},
    {"feed.file", FT_KEY_STATE, NULL, "feed.json", NULL, "Where it goes, below state."},
    {"feed.quota", FT_KEY_SIZE, "0 B..1 TiB", "0 B", NULL,
     "Size at which it stops with an error; 0 B means no bound."},
    {"feed.socket", FT_KEY_PATH, NULL, NONE, NULL,
     "Unix stream socket where a log shipper listens: the feed is written there too, one line an event (in "
     "Suricata's "
     "words, filetype: unix_stream). While nobody listens lines wait and it is tried again; nothing else "
     "waits for "
     "it."},
    {"feed.buffer", FT_KEY_SIZE, "256 KiB..256 MiB", "8 MiB", NULL,
     "Memory for lines that the socket has not taken yet, and as much for syslog. What comes when it is full "
     "is lost to "
     "that receiver only, and both the file and the receiver are told how much."},
    {"feed.syslog", FT_KEY_MAP, NULL, NULL, NULL, "The feed as messages to this machine's syslog receiver."},
    {"feed.syslog.socket", FT_KEY_PATH, NULL, NONE, NULL,
     "Its datagram socket, /dev/log with rsyslog and journald alike, or none."},
    {"feed.syslog.facility", FT_KEY_CHOICE,
     "auth|authpriv|daemon|user|local0|local1|local2|local3|local4|local5|local6|local7", "local5", NULL,
     "Facility of the messages: kinds of messages that its rules tell apart."},
    {"feed.syslog.severity", FT_KEY_CHOICE, "emerg|alert|crit|err|warning|notice|info|debug", "info", NULL,
     "Severity of all messages; how bad an event is stands in its line, as alert.severity."},
    {"feed.syslog.cookie", FT_KEY_CHOICE, "cee|none", NONE, NULL,
     "cee puts \"@cee: \" before each line, by which rsyslog's mmjsonparse knows JSON."},
    {"feed.syslog.limit", FT_KEY_SIZE, "1 KiB..64 KiB", "8 KiB", NULL,
     "Longest message, header included; rsyslog cuts at its maxMessageSize, 8 KiB unless told otherwise. A "
     "longer line "
     "goes without its evidence, or as a line that names it, still whole JSON; the file has all of it."},

    {"log", FT_KEY_MAP, NULL, NULL, NULL,
     "The tamper-evident log, in the directory ledger below state: entries for everything of consequence, signed. Its public key "
     "is the file vkey there: keep a copy elsewhere, for foretaste verify."},
    {"log.commit", FT_KEY_CHOICE, "before-release|async", "before-release", NULL,
     "before-release: held input goes on only once the entry that says so is durable; it costs the time of a commit, two syncs of "
     "the disk. async: entries follow within log.interval."},
    {"log.on_failure", FT_KEY_CHOICE, "hold|drop|release", "release", NULL,
     "What becomes of input that is to be released while the ledger is gone or slow, or its log cannot be used. Each is counted, "
     "and has a reason of its own."},
    {"log.timeout", FT_KEY_DURATION, "10 ms..1 h", "2 s", NULL, "How long a release waits for the ledger before that."},
    {"log.interval", FT_KEY_DURATION, "1 ms..10 s", "100 ms", NULL, "How long entries may wait for others to be made durable with them."},
    {"log.publish_every", FT_KEY_DURATION, "0 s..24 h", "1 s", NULL,
     "The newest checkpoint goes into the feed at most so often, and at the end: whoever keeps the feed can prove that the log was "
     "not truncated, rolled back or forked. 0 s: never."},
    {"log.key_epoch", FT_KEY_DURATION, "1 min..720 h", "4 h", NULL,
     "How long a signing key is used before it is replaced and forgotten: whoever takes it can rewrite so much at most. There are "
     "4,096 of them."},
    {"log.quota", FT_KEY_SIZE, "0 B..16 TiB", "0 B", NULL, "Size of its entries at which max_log_file_action is taken; 0 B means no bound."},
    {"log.max_log_file_action", FT_KEY_CHOICE, "ignore|syslog|rotate|keep_logs|suspend", "rotate", NULL,
     "rotate: the oldest 65,536 entries are removed, and an entry says so; their hashes stay, so that everything else can be "
     "verified. ignore, keep_logs: nothing. syslog: the feed says so. suspend: nothing more is taken until the gateway is started "
     "again."},
    {"log.space_left", FT_KEY_SIZE, "0 B..16 TiB", "0 B", NULL, "Room on its disk below which space_left_action is taken; 0 B: not looked at."},
    {"log.space_left_action", FT_KEY_CHOICE, "ignore|syslog|rotate|suspend", "syslog", NULL, "As with max_log_file_action."},
    {"log.disk_full_action", FT_KEY_CHOICE, "ignore|syslog|rotate|suspend", "syslog", NULL,
     "Its disk is full. Entries wait in memory, up to 16 MiB, and are tried again once a second; then they are lost, counted, and "
     "an entry says how many."},
    {"log.disk_error_action", FT_KEY_CHOICE, "ignore|syslog|suspend", "syslog", NULL, "Its disk fails otherwise."},

    {"canary", FT_KEY_MAP, NULL, NULL, NULL,
     "The self-test: for each service that holds input, a client of the gateway's own connects now and then from a "
     "reserved address, with harmless input that has to be found suspicious, held, tried on a clone and judged clean. The "
     "guest sees a connection that is opened and reset. When it fails, the feed, the metrics, /readyz and the service "
     "manager's watchdog say so, and a guest that hangs is started anew. Each costs one trial."},
    {"canary.every", FT_KEY_DURATION, "0 s..24 h", "30 s", NULL, "Time from one test of a service to the next; 0 s: none."},

    {"metrics", FT_KEY_MAP, NULL, NULL, NULL,
     "Metrics for Prometheus at /metrics, and /healthz and /readyz, over HTTP, for this machine alone."},
    {"metrics.listen", FT_KEY_TEXT, NULL, NONE, NULL,
     "A loopback address and port such as 127.0.0.1:9469, the absolute path of a unix socket (its group is that of the "
     "gateway, and may use it), or none. Changes with a restart only."},

    {"journal", FT_KEY_MAP, NULL, NULL, NULL,
     "Journals of guests with journal: on, in journal/GUEST below state: checkpoints, and every input between them. They hold what "
     "the guest's memory and its network hold, encrypted where snapshots are."},
    {"journal.checkpoint_every", FT_KEY_DURATION, "10 s..24 h", "10 min", NULL,
     "A replay begins at a checkpoint: the shorter, the sooner it is where it is to go. Each costs the guest a pause of a clone, and "
     "its translated code."},
    {"journal.quota", FT_KEY_SIZE, "64 MiB..16 TiB", "1 GiB", NULL, "Most space of one guest's journal. The oldest parts go first."},
    {"journal.keep", FT_KEY_DURATION, "1 min..8760 h", "24 h", NULL, "What is older goes, too, as soon as a newer checkpoint is there."},
    {"journal.check_every", FT_KEY_WHOLE, "1000000..1000000000000", "20000000", NULL,
     "Instructions between two hashes of the guest's registers and devices, which a replay compares (12 bytes each); every hundredth "
     "also of the memory and the disk blocks written since the last such one."},
    {"journal.by_reference", FT_KEY_CHOICE, "off|on", "off", NULL,
     "on: what one recorded guest gets from another one is kept once, in the sender's journal, and a replay takes it from the sender's "
     "replay. It needs both journals then, and what the sender's process says of itself: off where guests are not to depend on each other."},
    {"journal.on_failure", FT_KEY_CHOICE, "continue|hold", "continue", NULL,
     "What a guest does when its journal cannot be written any more (disk full) and 16 MiB wait. continue: it goes on, the feed tells of "
     "the gap, and the journal begins anew with a checkpoint. hold: it stands still until there is room, and does not start "
     "without a journal."},

    {"seeds", FT_KEY_MAP, NULL, NULL, NULL,
     "Where no journal covers a verdict that is not clean, the state of the guest that its trial was forked from is kept as a snapshot, in "
     "seeds below state, so that the verdict can be made again (`foretaste replay --verdict ID`). Encrypted as snapshots are."},
    {"seeds.quota", FT_KEY_SIZE, "0 MiB..16 TiB", "1 GiB", NULL, "Most space of all of them; the oldest go first. 0 MiB: none is kept."},
    {"seeds.keep", FT_KEY_DURATION, "1 min..8760 h", "168 h", NULL, "What is older goes, too, with the next one that is kept."},
    {"seeds.every", FT_KEY_DURATION, "0 s..24 h", "1 min", NULL,
     "Of one guest at most one in that time: each takes a second or two of a processor, and a sender of bad input must not buy that "
     "as often as it likes. What is not kept is counted, and the feed says so."},

    {"snapshots", FT_KEY_MAP, NULL, NULL, NULL, "Guests as they were, in files (`foretaste snapshot`)."},
    {"snapshots.directory", FT_KEY_STATE, NULL, "snapshots", NULL, "Where they are, below state."},
    {"snapshots.key", FT_KEY_PATH, NULL, NONE, NULL,
     "File with the key that new ones are encrypted with, and that encrypted ones are read with: 32 random bytes or 64 hexadecimal "
     "digits, as `openssl rand -hex 32` prints; nobody but its owner may have access to it. none: they are not encrypted, and have "
     "all secrets of the guest in them."},
    {"snapshots.credential", FT_KEY_TEXT, NULL, NONE, NULL,
     "In place of key: the name of a credential that systemd gives the service (LoadCredential=NAME:FILE in its unit)."},

    {"quarantine", FT_KEY_MAP, NULL, NULL, NULL, "Packets of dropped input, as pcap files."},
    {"quarantine.directory", FT_KEY_STATE, NULL, "quarantine", NULL, "Where they go, below state."},
    {"quarantine.quota", FT_KEY_SIZE, "1 MiB..1 TiB", "64 MiB", NULL,
     "Most space; the oldest files go first."},
};

const size_t ft_keys_count = sizeof(ft_keys) / sizeof(*ft_keys);

static int path_matches(const char *pattern, const char *path)
{
	while (*pattern && *path) {
		size_t a = strcspn(pattern, "."), b = strcspn(path, ".");
		if (!(a == 1 && *pattern == '*') && (a != b || strncmp(pattern, path, a)))
			return 0;
		pattern += a;
		path += b;
		if (!*pattern || !*path)
			break;
		pattern++;
		path++;
	}
	return !*pattern && !*path;
}

const struct ft_key *ft_key_find(const char *path)
{
	for (size_t i = 0; i < ft_keys_count; i++)
		if (path_matches(ft_keys[i].path, path))
			return &ft_keys[i];
	return NULL;
}

int ft_key_is_child(const struct ft_key *parent, const struct ft_key *child)
{
	size_t length = parent ? strlen(parent->path) : 0;
	if (parent && (strncmp(child->path, parent->path, length) || child->path[length] != '.'))
		return 0;
	return !strchr(child->path + length + (parent ? 1 : 0), '.');
}

const char *ft_key_last(const struct ft_key *key)
{
	const char *dot = strrchr(key->path, '.');
	return dot ? dot + 1 : key->path;
}

/* ---- Reading one value ------------------------------------------------------------------------------------ */

#define WORDS 16

/* Splits "a|b|c"; words point into copy. */
static size_t split(const char *expect, char copy[128], const char *words[WORDS])
{
	size_t count = 0;
	snprintf(copy, 128, "%s", expect ? expect : "");
	for (char *save, *word = strtok_r(copy, "|", &save); word && count < WORDS;
	     word = strtok_r(NULL, "|", &save))
		words[count++] = word;
	return count;
}

static int is_word(const char *expect, const char *text)
{
	char copy[128];
	const char *words[WORDS];
	size_t count = split(expect, copy, words);
	for (size_t i = 0; i < count; i++)
		if (!strcmp(words[i], text))
			return 1;
	return 0;
}

/* "enforce or observe" */
static const char *word_list(const char *expect, char text[160])
{
	char copy[128];
	const char *words[WORDS];
	size_t count = split(expect, copy, words);
	text[0] = 0;
	for (size_t i = 0; i < count; i++)
		snprintf(text + strlen(text), 160 - strlen(text), "%s%s",
			 i == 0          ? ""
			 : i + 1 < count ? ", "
					 : " or ",
			 words[i]);
	return text;
}

static int word_error(const struct ft_key *key, const struct ft_yaml *node, const char *besides,
		      struct ft_error *err)
{
	char copy[128], list[160];
	const char *words[WORDS];
	size_t count = split(key->expect, copy, words);
	const char *meant = ft_suggest(node->text, words, count);
	return ft_yaml_error(err, node, "%s is \"%.64s\", expected %s%s%s%s%s", ft_key_last(key), node->text,
			     besides, word_list(key->expect, list), meant ? ", did you mean \"" : "",
			     meant ? meant : "", meant ? "\"?" : "");
}

static void range(const struct ft_key *key, char low[64], char high[64])
{
	const char *dots = strstr(key->expect, "..");
	snprintf(low, 64, "%.*s", (int)(dots - key->expect), key->expect);
	snprintf(high, 64, "%s", dots + 2);
}

static int quantity(const struct ft_key *key, const struct ft_yaml *node, json_t **value,
		    struct ft_error *err)
{
	int (*parse)(const char *, uint64_t *, struct ft_error *) =
	    key->kind == FT_KEY_SIZE ? ft_units_size : ft_units_duration;
	char low[64], high[64];
	uint64_t least = 0, most = 0, n = 0;
	range(key, low, high);
	parse(low, &least, NULL);
	parse(high, &most, NULL);
	struct ft_error why = {0};
	if (parse(node->text, &n, &why))
		return ft_yaml_error(err, node, "%s: %s", ft_key_last(key), why.text);
	if (n < least || n > most)
		return ft_yaml_error(err, node, "%s is %s, expected between %s and %s", ft_key_last(key),
				     node->text, low, high);
	*value = json_integer((json_int_t)n);
	return 0;
}

static int number(const struct ft_key *key, const struct ft_yaml *node, json_t **value, struct ft_error *err)
{
	char low[64], high[64], *end;
	range(key, low, high);
	const char *what = key->kind == FT_KEY_WHOLE ? "a whole number" : "a number";
	errno = 0;
	double real = strtod(node->text, &end);
	long long whole = strtoll(node->text, NULL, 10);
	/* Only digits (and a point): no hexadecimal, no infinity, no exponent. */
	size_t digits = strspn(node->text, key->kind == FT_KEY_WHOLE ? "-0123456789" : "-.0123456789");
	if (!*node->text || *end || node->text[digits] || !isfinite(real))
		return ft_yaml_error(err, node, "%s is \"%.64s\", expected %s from %s to %s",
				     ft_key_last(key), node->text, what, low, high);
	if (errno == ERANGE || real < strtod(low, NULL) || real > strtod(high, NULL))
		return ft_yaml_error(err, node, "%s is %.64s, expected %s from %s to %s", ft_key_last(key),
				     node->text, what, low, high);
	bool integral = key->kind == FT_KEY_WHOLE || real == floor(real);
	*value =
	    integral ? json_integer(key->kind == FT_KEY_WHOLE ? whole : (long long)real) : json_real(real);
	return 0;
}

static int address(const struct ft_key *key, const struct ft_yaml *node, json_t **value, struct ft_error *err)
{
	struct in_addr in;
	char list[160];
	if (key->expect && is_word(key->expect, node->text)) {
		*value = json_string(node->text);
		return 0;
	}
	if (inet_pton(AF_INET, node->text, &in) != 1)
		return ft_yaml_error(err, node,
				     "%s is \"%.64s\", expected an IPv4 address such as 10.0.2.15%s%s",
				     ft_key_last(key), node->text, key->expect ? ", or " : "",
				     key->expect ? word_list(key->expect, list) : "");
	uint32_t ip = ntohl(in.s_addr);
	if (ip >> 24 == 0 || ip >> 24 == 127 || ip >> 28 >= 14)
		return ft_yaml_error(err, node, "%s is %s, expected the address of one host",
				     ft_key_last(key), node->text);
	*value = json_string(node->text);
	return 0;
}

static int address6(const struct ft_key *key, const struct ft_yaml *node, json_t **value, struct ft_error *err)
{
	struct in6_addr in;
	if (inet_pton(AF_INET6, node->text, &in) != 1)
		return ft_yaml_error(err, node, "%s is \"%.64s\", expected an IPv6 address such as 2001:db8::15",
				     ft_key_last(key), node->text);
	if (IN6_IS_ADDR_UNSPECIFIED(&in) || IN6_IS_ADDR_LOOPBACK(&in) || IN6_IS_ADDR_MULTICAST(&in) ||
	    IN6_IS_ADDR_V4MAPPED(&in))
		return ft_yaml_error(err, node, "%s is %s, expected the address of one host",
				     ft_key_last(key), node->text);
	*value = json_string(node->text);
	return 0;
}

static int vlan(const struct ft_key *key, const struct ft_yaml *node, json_t **value, struct ft_error *err)
{
	char *end;
	long number = strtol(node->text, &end, 10);
	if (is_word(key->expect, node->text)) {
		*value = json_string(node->text);
		return 0;
	}
	if (!*node->text || node->text[strspn(node->text, "0123456789")])
		return word_error(key, node, "a number from 1 to 4094, ", err);
	if (number < 1 || number > 4094)
		return ft_yaml_error(err, node, "%s is %s, expected a number from 1 to 4094", ft_key_last(key),
				     node->text);
	*value = json_integer(number);
	return 0;
}

/* "50 %" */
static int percent(const struct ft_key *key, const struct ft_yaml *node, json_t **value, struct ft_error *err)
{
	char low[64], high[64], *end;
	range(key, low, high);
	long number = strtol(node->text, &end, 10);
	if (!strchr("0123456789", *node->text) || strcmp(end + strspn(end, " "), "%"))
		return ft_yaml_error(err, node, "%s is \"%.64s\", expected a share such as \"50 %%\"",
				     ft_key_last(key), node->text);
	if (number < strtol(low, NULL, 10) || number > strtol(high, NULL, 10))
		return ft_yaml_error(err, node, "%s is %s, expected between %s %% and %s %%", ft_key_last(key),
				     node->text, low, high);
	*value = json_integer(number);
	return 0;
}

static int mac(const struct ft_key *key, const struct ft_yaml *node, json_t **value, struct ft_error *err)
{
	unsigned b[6];
	int used = 0;
	if (sscanf(node->text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5],
		   &used) != 6 ||
	    used != 17 || node->text[used])
		return ft_yaml_error(
		    err, node, "%s is \"%.64s\", expected an Ethernet address such as 52:54:00:00:02:0f",
		    ft_key_last(key), node->text);
	if (b[0] & 1)
		return ft_yaml_error(
		    err, node,
		    "%s is %s, a group address, expected one of a single card (an even first byte)",
		    ft_key_last(key), node->text);
	if (!(b[0] | b[1] | b[2] | b[3] | b[4] | b[5]))
		return ft_yaml_error(err, node, "%s is all zero, expected an Ethernet address",
				     ft_key_last(key));
	char text[64];
	snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5]);
	*value = json_string(text);
	return 0;
}

static int list(const struct ft_key *key, const struct ft_yaml *node, json_t **value, struct ft_error *err)
{
	if (node->kind == FT_YAML_SCALAR && key->expect) {
		if (!is_word(key->expect, node->text))
			return word_error(key, node, "a list of names, ", err);
		*value = json_string(node->text);
		return 0;
	}
	if (node->kind != FT_YAML_LIST)
		return ft_yaml_error(err, node, "%s is %s, expected a list such as [a, b]", ft_key_last(key),
				     ft_yaml_kind_name(node->kind));
	json_t *array = json_array();
	for (size_t i = 0; i < node->count; i++) {
		const struct ft_yaml *item = node->items[i];
		if (item->kind != FT_YAML_SCALAR || !*item->text) {
			json_decref(array);
			return ft_yaml_error(
			    err, item, "an entry of %s is %s, expected text", ft_key_last(key),
			    item->kind == FT_YAML_SCALAR ? "empty" : ft_yaml_kind_name(item->kind));
		}
		json_array_append_new(array, json_string(item->text));
	}
	*value = array;
	return 0;
}

int ft_key_value(const struct ft_key *key, const struct ft_yaml *node, json_t **value, struct ft_error *err)
{
	bool optional = key->fallback && !strcmp(key->fallback, NONE);
	*value = NULL;
	if (key->kind == FT_KEY_NAMES || key->kind == FT_KEY_PATHS)
		return list(key, node, value, err);
	if (node->kind != FT_YAML_SCALAR)
		return ft_yaml_error(err, node, "%s is %s, expected a value%s%s", ft_key_last(key),
				     ft_yaml_kind_name(node->kind), key->fallback ? " such as " : "",
				     key->fallback ? key->fallback : "");
	if (optional && !strcmp(node->text, NONE)) {
		*value = json_null();
		return 0;
	}
	if (!*node->text && !(key->kind == FT_KEY_TEXT && !node->plain))
		return ft_yaml_error(err, node, "%s is empty, expected a value", ft_key_last(key));
	switch (key->kind) {
	case FT_KEY_SIZE:
	case FT_KEY_DURATION:
		return quantity(key, node, value, err);
	case FT_KEY_WHOLE:
	case FT_KEY_REAL:
		return number(key, node, value, err);
	case FT_KEY_ADDRESS:
		return address(key, node, value, err);
	case FT_KEY_ADDRESS6:
		return address6(key, node, value, err);
	case FT_KEY_MAC:
		return mac(key, node, value, err);
	case FT_KEY_VLAN:
		return vlan(key, node, value, err);
	case FT_KEY_PERCENT:
		return percent(key, node, value, err);
	case FT_KEY_CHOICE:
		if (!is_word(key->expect, node->text))
			return word_error(key, node, "", err);
		break;
	default:
		break;
	}
	*value = json_string(node->text);
	return *value ? 0 : ft_yaml_error(err, node, "%s is not UTF-8 text", ft_key_last(key));
}

/* ---- Writing values ---------------------------------------------------------------------------------------- */

/* Text that plain YAML would read as something else gets quotes. */
static void format_text(const char *value, char *text, size_t size)
{
	bool plain = *value && !strpbrk(value, "#\"'{}[],&*!|>%@`\\\n\t") && !strstr(value, ": ") &&
		     *value != '-' && *value != '?' && *value != ' ' && value[strlen(value) - 1] != ' ' &&
		     value[strlen(value) - 1] != ':';
	/* a:b in a map value is fine, 52:54:… would be read as a number in base 60 by YAML 1.1 readers */
	if (plain && !(strchr(value, ':') && strspn(value, "0123456789:") == strlen(value))) {
		snprintf(text, size, "%s", value);
		return;
	}
	json_t *string = json_string(value);
	char *quoted = json_dumps(string, JSON_ENCODE_ANY);
	snprintf(text, size, "%s", quoted ? quoted : "\"\"");
	free(quoted);
	json_decref(string);
}

void ft_key_format(const struct ft_key *key, const json_t *value, char *text, size_t size)
{
	char unit[FT_UNITS_TEXT];
	if (json_is_null(value))
		snprintf(text, size, NONE);
	else if (json_is_array(value)) {
		size_t used = (size_t)snprintf(text, size, "[");
		size_t i;
		json_t *item;
		json_array_foreach(value, i, item)
		{
			char one[512];
			format_text(json_string_value(item), one, sizeof(one));
			if (used < size)
				used +=
				    (size_t)snprintf(text + used, size - used, "%s%s", i ? ", " : "", one);
		}
		if (used < size)
			snprintf(text + used, size - used, "]");
	} else if (key->kind == FT_KEY_SIZE)
		snprintf(text, size, "%s", ft_units_format_size((uint64_t)json_integer_value(value), unit));
	else if (key->kind == FT_KEY_DURATION)
		snprintf(text, size, "%s",
			 ft_units_format_duration((uint64_t)json_integer_value(value), unit));
	else if (key->kind == FT_KEY_PERCENT)
		snprintf(text, size, "%" JSON_INTEGER_FORMAT " %%", json_integer_value(value));
	else if (json_is_integer(value))
		snprintf(text, size, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	else if (json_is_real(value))
		snprintf(text, size, "%g", json_real_value(value));
	else
		format_text(json_string_value(value), text, size);
}

static void comment(FILE *file, int indent, const char *text)
{
	const int width = 110 - indent - 2;
	while (*text) {
		int n = (int)strlen(text);
		if (n > width) {
			n = width;
			while (n > 0 && text[n] != ' ')
				n--;
		}
		fprintf(file, "%*s# %.*s\n", indent, "", n, text);
		text += n;
		text += *text == ' ';
	}
}

void ft_keys_template(FILE *file)
{
	fprintf(file, "# Every key of Foretaste's configuration, with its default. What has no default shows "
		      "an example.\n"
		      "# Maps are keyed by names that you choose. Sizes and durations carry their unit. "
		      "Relative paths start at\n"
		      "# this file's directory, those below `state` at that. `foretaste check FILE` "
		      "validates a file and prints\n"
		      "# what is in effect. This file is made by `foretaste check --template` and a test "
		      "keeps it so.\n\n");
	for (size_t i = 0; i < ft_keys_count; i++) {
		const struct ft_key *key = &ft_keys[i];
		int indent = 0;
		for (const char *p = key->path; *p; p++)
			indent += 2 * (*p == '.');
		if (key->kind == FT_KEY_MAP && !indent)
			fputc('\n', file);
		if (key->doc)
			comment(file, indent, key->doc);
		char text[512] = "";
		if (key->kind == FT_KEY_TEXT || key->kind == FT_KEY_MAC)
			format_text(key->fallback  ? key->fallback
				    : key->example ? key->example
						   : "",
				    text, sizeof(text));
		else
			snprintf(text, sizeof(text), "%s",
				 key->fallback  ? key->fallback
				 : key->example ? key->example
						: "");
		const char *name = ft_key_last(key);
		if (key->kind == FT_KEY_MAP)
			fprintf(file, "%*s%s:\n", indent, "", *name == '*' ? key->example : name);
		else
			fprintf(file, "%*s%s: %s%s\n", indent, "", name, text,
				key->fallback ? "" : "  # no default");
	}
}
