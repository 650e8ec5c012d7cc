/* Wrong configurations and the exact sentence that each gets; right ones and what they mean; the shipped files. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <cmocka.h>

#include <sysexits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/config.h"
#include "gateway/keys.h"
#include "gateway/suggest.h"

#define COUNT(a) (sizeof(a) / sizeof(*(a)))

/* Line numbers in the expected sentences count from here. */
static const char base[] = "sensor: s1\n"                          /* 1 */
			   "uplink: {port: net_null0}\n"           /* 2 */
			   "guests:\n"                             /* 3 */
			   "  web:\n"                              /* 4 */
			   "    kernel: vmlinuz\n"                 /* 5 */
			   "    memory: 128 MiB\n"                 /* 6 */
			   "    mac: 52:54:00:00:02:0f\n"          /* 7 */
			   "    address: 10.0.2.15\n"              /* 8 */
			   "services:\n"                           /* 9 */
			   "  http:\n"                             /* 10 */
			   "    guest: web\n"                      /* 11 */
			   "    port: 80\n"                        /* 12 */
			   "    mode: enforce\n"                   /* 13 */
			   "    rules: [p.yaml]\n"                 /* 14 */
			   "    normal: {may_exec: [/bin/true]}\n" /* 15 */
			   "clone:\n"                              /* 16 */
			   "  horizon: 60 s\n"                     /* 17 */
			   "verdict_rules: v.yaml\n"               /* 18 */
			   "correlation_rules: c.yaml\n";          /* 19 */

static const char patterns[] = "patterns:\n"
			       "  - sid: 1000001\n"
			       "    name: semicolon\n"
			       "    text: a semicolon\n"
			       "    pattern: ';'\n";
static const char verdicts[] = "verdicts:\n"
			       "  - sid: 2000001\n"
			       "    name: exec\n"
			       "    text: a program\n"
			       "    severity: 1\n"
			       "    verdict: malicious\n"
			       "    any: {event: exec}\n";
static const char correlations[] =
    "correlations:\n"
    "  - sid: 3000001\n"
    "    name: burst\n"
    "    text: a burst\n"
    "    severity: 2\n"
    "    set: {of: {event: net.tx}, field: daddr, distinct: 5, within: 10 s}\n";

static char directory[] = "/tmp/foretaste-config-XXXXXX";

static void put(const char *name, const char *text)
{
	FILE *file = fopen(name, "w");
	assert_non_null(file);
	assert_true(fputs(text, file) >= 0);
	assert_int_equal(fclose(file), 0);
}

/* Writes the base with the first `find` replaced. */
static void put_changed(const char *name, const char *text, const char *find, const char *replace)
{
	char changed[4096];
	const char *at = strstr(text, find);
	assert_non_null(at);
	snprintf(changed, sizeof(changed), "%.*s%s%s", (int)(at - text), text, replace, at + strlen(find));
	put(name, changed);
}

static int set_up(void **state)
{
	if (!mkdtemp(directory) || chdir(directory))
		return -1;
	put("p.yaml", patterns);
	put("v.yaml", verdicts);
	put("c.yaml", correlations);
	put("vmlinuz", "x");
	return 0;
}

static int tear_down(void **state)
{
	static const char *const files[] = {"p.yaml", "v.yaml", "c.yaml", "vmlinuz", "t.yaml", "bad.yaml"};
	for (size_t i = 0; i < COUNT(files); i++)
		unlink(files[i]);
	return chdir("/") || rmdir(directory);
}

struct mistake {
	const char *find, *replace, *says;
};

static const struct mistake mistakes[] = {
    /* unknown keys */
    {"sensor:", "sensro:", "t.yaml:1:1: unknown key \"sensro\", did you mean \"sensor\"?"},
    {"memory:", "memroy:", "t.yaml:6:5: unknown key \"memroy\" in guests.web, did you mean \"memory\"?"},
    {"horizon:", "horizont:", "t.yaml:17:3: unknown key \"horizont\" in clone, did you mean \"horizon\"?"},
    {"{port: net_null0}", "{port: net_null0, xyzzy: 1}",
     "t.yaml:2:27: unknown key \"xyzzy\" in uplink, expected one of: port, huge"},
    {"may_exec:", "may_exce:",
     "t.yaml:15:14: unknown key \"may_exce\" in services.http.normal, did you mean \"may_exec\"?"},
    /* missing */
    {"    kernel: vmlinuz\n", "",
     "t.yaml:4:3: guests.web.kernel is missing, expected for example \"kernel: "
     "/var/lib/foretaste/images/web/vmlinuz\""},
    {"uplink: {port: net_null0}\n", "",
     "t.yaml:1:1: there is no uplink, expected for example \"uplink: {port: \"net_af_packet0,iface=eth1\"}\""},
    {"uplink: {port: net_null0}\n", "uplink: {}\n",
     "t.yaml:2:1: uplink.port is missing, expected for example \"port: net_af_packet0,iface=eth1\""},
    {"    port: 80\n", "", "t.yaml:10:3: services.http.port is missing, expected for example \"port: 80\""},
    /* wrong types */
    {"memory: 128 MiB", "memory: [1, 2]", "t.yaml:6:13: memory is a list, expected a value such as 256 MiB"},
    {"{port: net_null0}", "net_null0", "t.yaml:2:9: uplink is a value, expected a map"},
    {"uplink: {port: net_null0}", "uplinks: {uplink: {prt: net_null0}}",
     "t.yaml:2:20: unknown key \"prt\" in uplinks.uplink, did you mean \"port\"?"},
    {"uplink: {port: net_null0}", "uplinks:\n  uplink: {prt: net_null0}",
     "t.yaml:3:12: unknown key \"prt\" in uplinks.uplink, did you mean \"port\"?"},
    {"rules: [p.yaml]", "rules: p.yaml", "t.yaml:14:12: rules is a value, expected a list such as [a, b]"},
    {"[p.yaml]", "[[p.yaml]]", "t.yaml:14:13: an entry of rules is a list, expected text"},
    {"port: 80", "port: http", "t.yaml:12:11: port is \"http\", expected a whole number from 1 to 65535"},
    {"port: 80", "port: 80.5", "t.yaml:12:11: port is \"80.5\", expected a whole number from 1 to 65535"},
    {"port: 80", "port:", "t.yaml:12:10: port is empty, expected a value"},
    /* ranges and forms */
    {"port: 80", "port: 65536", "t.yaml:12:11: port is 65536, expected a whole number from 1 to 65535"},
    {"port: 80", "port: 99999999999999999999999",
     "t.yaml:12:11: port is 99999999999999999999999, expected a whole number from 1 to 65535"},
    {"memory: 128 MiB", "memory: 128",
     "t.yaml:6:13: memory: \"128\" has no unit, expected a size such as \"256 MiB\" (units: TiB, GiB, MiB, "
     "KiB, "
     "GB, MB, kB, B)"},
    {"memory: 128 MiB", "memory: 1 MiB", "t.yaml:6:13: memory is 1 MiB, expected between 64 MiB and 3 GiB"},
    {"horizon: 60 s", "horizon: 60 MiB",
     "t.yaml:17:12: horizon: \"60 MiB\" has an unknown unit, expected a duration such as \"500 ms\" (units: "
     "h, min, "
     "s, ms, us, ns)"},
    {"horizon: 60 s", "horizon: 99 h", "t.yaml:17:12: horizon is 99 h, expected between 0 s and 24 h"},
    {"mode: enforce", "mode: enforced",
     "t.yaml:13:11: mode is \"enforced\", expected enforce, shadow or observe, did you mean \"enforce\"?"},
    {"mode: enforce", "mode: enforce\n    on_exception: tempfial",
     "t.yaml:14:19: on_exception is \"tempfial\", expected drop, release or tempfail, did you mean \"tempfail\"?"},
    {"mode: enforce", "mode: enforce\n    on_suspicious: tempfail",
     "t.yaml:14:20: on_suspicious is \"tempfail\", expected drop or release"},
    {"mode: enforce",
     "mode: enforce\n    on_exception: drop\n    on_timeout: release\n    on_error: drop\n    on_overload: tempfail\n"
     "    on_oversize: drop",
     "t.yaml:14:19: on_exception decides nothing: on_timeout, on_error, on_overload and on_oversize are all given, "
     "expected it or one of them to be left out"},
    {"mode: enforce", "mode: enforce\n    held: 128 KiB",
     "t.yaml:14:11: held is less than hold_limit: one hold alone would be beyond it"},
    {"mode: enforce", "mode: enforce\n    source_holds: 300",
     "t.yaml:14:19: source_holds is more than holds: it would never be reached"},
    {"mode: enforce", "mode: enforce\n    clones: 5",
     "t.yaml:14:13: clones is more than clone.max: it would never be reached"},
    {"mode: enforce", "mode: enforce\n    quarantine: 1 GiB",
     "t.yaml:14:17: quarantine is more than quarantine.quota: it would never be reached"},
    {"mode: enforce", "mode: enforce\n    gather: 500 ms\n    hold_time: 400 ms",
     "t.yaml:15:16: hold_time is not longer than gather: no trial would ever begin"},
    {"mode: enforce", "mode: enforce\n    input_limit: 100 KiB",
     "t.yaml:14:18: input_limit is less than hold_limit: no hold could ever be that large"},
    {"mode: enforce", "mode: enforce\n    risks: sever",
     "t.yaml:14:12: risks is \"sever\", expected a list of names, severe or none, did you mean \"severe\"?"},
    {"address: 10.0.2.15", "address: 10.0.2.256",
     "t.yaml:8:14: address is \"10.0.2.256\", expected an IPv4 address such as 10.0.2.15"},
    {"address: 10.0.2.15", "address: 224.0.0.1",
     "t.yaml:8:14: address is 224.0.0.1, expected the address of one host"},
    {"clone:", "metrics: {listen: \"0.0.0.0:9469\"}\nclone:",
     "t.yaml:16:19: listen: 0.0.0.0 is no loopback address: metrics are for this machine alone, expected for example "
     "127.0.0.1:9469"},
    {"clone:", "metrics: {listen: \"10.0.0.1:80\"}\nclone:",
     "t.yaml:16:19: listen: 10.0.0.1 is no loopback address: metrics are for this machine alone, expected for example "
     "127.0.0.1:9469"},
    {"clone:", "metrics: {listen: \"[::]:9469\"}\nclone:",
     "t.yaml:16:19: listen: \"[::]:9469\" is neither loopback address and port, such as 127.0.0.1:9469, nor the absolute path "
     "of a socket"},
    {"clone:", "metrics: {listen: 127.0.0.1}\nclone:",
     "t.yaml:16:19: listen: \"127.0.0.1\" has no port from 1 to 65535, expected for example 127.0.0.1:9469"},
    {"clone:", "metrics: {listen: \"127.0.0.1:70000\"}\nclone:",
     "t.yaml:16:19: listen: \"127.0.0.1:70000\" has no port from 1 to 65535, expected for example 127.0.0.1:9469"},
    {"clone:", "metrics: {listen: metrics.sock}\nclone:",
     "t.yaml:16:19: listen: \"metrics.sock\" is neither loopback address and port, such as 127.0.0.1:9469, nor the absolute "
     "path of a socket"},
    {"address: 10.0.2.15", "address: 10.0.2.15\n    canary: 10.0.2.15",
     "t.yaml:9:13: canary is the address of guest \"web\", expected one that nobody has"},
    {"address: 10.0.2.15", "address: 10.0.2.15\n    address6: fd00::15\n    canary6: fd00:0::15",
     "t.yaml:10:14: canary6 is the address of guest \"web\", expected one that nobody has"},
    {"address: 10.0.2.15", "address: 10.0.2.15\n    canary6: fd00::200",
     "t.yaml:9:14: canary6 tests an IPv6 address that the guest does not have, expected address6 as well"},
    {"address: 10.0.2.15", "address: 10.0.2.15\n    address6: fd00::15\n    canary6: ff02::1",
     "t.yaml:10:14: canary6 is ff02::1, expected the address of one host"},
    {"horizon: 60 s", "link: {dns: no}",
     "t.yaml:17:15: dns is \"no\", expected an IPv4 address such as 10.0.2.15, or refuse"},
    {"52:54:00:00:02:0f", "53:54:00:00:02:0f",
     "t.yaml:7:10: mac is 53:54:00:00:02:0f, a group address, expected one of a single card (an even first "
     "byte)"},
    {"52:54:00:00:02:0f", "52:54:00:00:02",
     "t.yaml:7:10: mac is \"52:54:00:00:02\", expected an Ethernet address such as 52:54:00:00:02:0f"},
    {"  web:\n", "  Web:\n",
     "t.yaml:4:3: \"Web\" cannot be a name, expected at most 31 lower-case letters, digits, dashes and "
     "underscores"},
    /* contradictions */
    {"memory: 128 MiB", "vcpus: 2",
     "t.yaml:6:12: vcpus is more than 1, but engine soft has one processor, expected 1, \"engine: kvm\" or \"engine: auto\""},
    {"memory: 128 MiB", "engine: auto\n    vcpus: 2",
     "t.yaml:7:12: vcpus is more than 1, but clones on engine soft have one processor, expected 1 or \"clone: {engine: kvm}\", on which they "
     "show their network, disk and console alone"},
    {"memory: 128 MiB", "engine: auto\n    vcpus: 2\n    clone: {engine: kvm}\n    journal: on",
     "t.yaml:7:12: vcpus is more than 1, but a journal counts instructions, and engine soft, which does, has one processor: expected 1 or "
     "\"journal: off\""},
    {"memory: 128 MiB", "engine: auto\n    vcpus: 2\n    clone: {engine: kvm}\n    clock: free",
     "t.yaml:7:12: vcpus is more than 1, but the free clock counts instructions, and engine soft, which does, has one processor: expected 1 or "
     "\"clock: live\""},
    {"memory: 128 MiB", "engine: kvm\n    clone: {engine: kvm}\n    vcpus: 17", "t.yaml:8:12: vcpus is 17, expected a whole number from 1 to 16"},
    {"memory: 128 MiB", "engine: kvm\n    journal: on",
     "t.yaml:7:14: journal is on, but engine kvm counts no instructions, so that the run could not be repeated: expected "
     "\"engine: soft\" or \"engine: auto\""},
    {"memory: 128 MiB", "engine: kvm\n    clock: free",
     "t.yaml:7:12: clock is free, but engine kvm counts no instructions: expected \"engine: soft\" or \"clock: live\""},
    {"memory: 128 MiB", "clone: {engine: kvm}",
     "t.yaml:6:21: clones can run on engine kvm only where their guest does, expected \"engine: kvm\" or \"engine: auto\""},
    {"memory: 128 MiB", "portable: false",
     "t.yaml:6:15: portable is false, but only engine kvm has the host's own processor, expected \"portable: true\" or \"engine: kvm\""},
    {"memory: 128 MiB", "engine: auto\n    portable: false",
     "t.yaml:7:15: portable is false, but only engine kvm has the host's own processor, expected \"portable: true\" or \"engine: kvm\""},
    {"memory: 128 MiB", "engine: kvm\n    portable: false",
     "t.yaml:7:15: portable is false, but clones on engine soft do not have the host's own processor, expected \"portable: true\" or \"clone: "
     "{engine: kvm}\", on which they show their network, disk and console alone"},
    {"memory: 128 MiB", "engine: kvm\n    clone: {engine: kvm}\n    portable: false\n    start: snapshot",
     "t.yaml:8:15: portable is false, but such a guest cannot be saved, expected \"portable: true\" or \"start: boot\""},
    {"memory: 128 MiB", "portable: off", "t.yaml:6:15: portable is \"off\", expected true or false"},
    {"guest: web", "guest: wbe", "t.yaml:11:12: there is no guest \"wbe\", did you mean \"web\"?"},
    {"rules: [p.yaml]", "rules: []\n    risks: none",
     "t.yaml:10:3: nothing would ever be suspicious: there are no rules and no risks, expected rules, risks, "
     "or "
     "\"screen: all\""},
    {"  horizon: 60 s", "  wall: 10 ms\nfeed: {file: console-web.log}",
     "t.yaml:4:3: the console log and feed.file are the same file"},
    {"clone:\n", "feed: {socket: x.sock, syslog: {socket: x.sock}}\nclone:\n",
     "t.yaml:16:41: feed.syslog.socket and feed.socket are the same file"},
    {"clone:\n", "feed: {socket: /run/foretaste/control.sock}\nclone:\n",
     "t.yaml:16:16: feed.socket and control are the same file"},
    {"clone:\n", "feed: {file: /run/x, socket: /run/x}\nclone:\n",
     "t.yaml:16:30: feed.socket and feed.file are the same file"},
    {"clone:\n",
     "feed: {socket: "
     "/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
     "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx}\nclone:\n",
     "t.yaml:16:16: feed.socket is longer than the 107 characters that a socket's name may have"},
    {"clone:\n", "feed: {syslog: /dev/log}\nclone:\n",
     "t.yaml:16:16: feed.syslog is a value, expected a map"},
    {"clone:\n", "feed: {syslog: {facility: local9}}\nclone:\n",
     "t.yaml:16:27: facility is \"local9\", expected auth, authpriv, daemon, user, local0, local1, local2, "
     "local3, "
     "local4, local5, local6 or local7, did you mean \"local0\"?"},
    {"clone:\n", "feed: {syslog: {severity: warn}}\nclone:\n",
     "t.yaml:16:27: severity is \"warn\", expected emerg, alert, crit, err, warning, notice, info or debug"},
    {"clone:\n", "feed: {syslog: {limit: 100 KiB}}\nclone:\n",
     "t.yaml:16:24: limit is 100 KiB, expected between 1 KiB and 64 KiB"},
    {"clone:\n", "feed: {scoket: x}\nclone:\n",
     "t.yaml:16:8: unknown key \"scoket\" in feed, did you mean \"socket\"?"},
    {"normal: {may_exec: [/bin/true]}\nclone:\n", "gather: 1 s\nclone:\n  wall: 1 s\n",
     "t.yaml:15:13: gather is not shorter than clone.wall: each hold would outlive its trial"},
    {"clone:\n", "clone: 7: 8\n",
     "t.yaml:16:9: this is not YAML: mapping values are not allowed in this context"},
    {"services:\n", "services:\n  web: {guest: web, port: 80}\n",
     "t.yaml:13:11: tcp port 80 of guest web belongs to service \"web\" already"},
    /* several guests and uplinks */
    {"services:\n", "  db: {kernel: k, mac: '52:54:00:00:02:0f', address: 10.0.2.16}\nservices:\n",
     "t.yaml:9:24: guest \"web\" has the same MAC address in the same VLAN"},
    {"services:\n", "  db: {kernel: k, mac: '52:54:00:00:02:0f', address: 10.0.2.16, vlan: trunk}\nservices:\n",
     "t.yaml:9:24: guest \"web\" has the same MAC address in the same VLAN"},
    {"services:\n", "  db: {kernel: k, mac: '52:54:00:00:02:10', address: 10.0.2.15}\nservices:\n",
     "t.yaml:9:54: guest \"web\" has the same address in the same VLAN"},
    {"services:\n",
     "  db: {kernel: k, mac: '52:54:00:00:02:10', address: 10.0.2.16, console: console-web.log}\nservices:\n",
     "t.yaml:9:74: guest \"web\" has the same console log"},
    {"memory: 128 MiB", "uplink: upllink", "t.yaml:6:13: there is no uplink \"upllink\", did you mean \"uplink\"?"},
    {"uplink: {port: net_null0}", "uplinks: {wan: {port: net_null0}, lan: {port: net_null1}}",
     "t.yaml:4:3: there are several uplinks, expected for example \"uplink: wan\""},
    {"uplink: {port: net_null0}", "uplinks: {wan: {port: net_null0}, lan: {port: 'net_null0,size=64'}}",
     "t.yaml:2:47: uplink \"wan\" has the same device, expected one for each"},
    {"uplink: {port: net_null0}",
     "uplinks: {wan: {port: 'net_af_packet0,iface=e1'}, lan: {port: 'net_af_packet1,iface=e1'}}",
     "t.yaml:2:63: uplink \"wan\" has the same device, expected one for each"},
    {"uplink: {port: net_null0}", "uplinks: {wan: {port: net_null0}}\nuplink: {port: net_null1}",
     "t.yaml:3:1: uplink is given besides uplinks, expected one of them"},
    {"memory: 128 MiB", "vlan: 4095", "t.yaml:6:11: vlan is 4095, expected a number from 1 to 4094"},
    {"memory: 128 MiB", "vlan: 0", "t.yaml:6:11: vlan is 0, expected a number from 1 to 4094"},
    {"memory: 128 MiB", "vlan: trnk",
     "t.yaml:6:11: vlan is \"trnk\", expected a number from 1 to 4094, untagged or trunk, did you mean \"trunk\"?"},
    {"memory: 128 MiB", "cpu: 0 %", "t.yaml:6:10: cpu is 0 %, expected between 1 % and 6400 %"},
    {"memory: 128 MiB", "cpu: 50", "t.yaml:6:10: cpu is \"50\", expected a share such as \"50 %\""},
    {"memory: 128 MiB", "restart: on-failure",
     "t.yaml:6:14: restart is \"on-failure\", expected always, on-crash or never"},
    {"memory: 128 MiB", "backoff: {first: 11 s}",
     "t.yaml:6:22: backoff.first is longer than backoff.most"},
    {"[/bin/true]", "[bin/true]", NULL}, /* the sentence is detect's own; the place is ours */
    /* YAML itself */
    {"sensor: s1", "sensor: s1\nsensor: s2", "t.yaml:2:1: \"sensor\" is given twice, first in line 1"},
    {"sensor: s1", "sensor: &x s1", "t.yaml:1:9: anchors, aliases and tags are not supported"},
    {"sensor: s1", "sensor: *x", "t.yaml:1:9: anchors, aliases and tags are not supported"},
    {"sensor: s1", "sensor: !!binary s1", "t.yaml:1:9: anchors, aliases and tags are not supported"},
    {"sensor: s1", "sensor: [", NULL},
    {"sensor: s1", "sensor: \"a\\0b\"", "t.yaml:1:9: a NUL character in a value"},
    {"sensor: s1", "? [a, b]\n: c", "t.yaml:1:3: the name of an entry has to be plain text"},
    {"clone:\n", "---\nclone:\n", "t.yaml:16:1: a second document; one file is one document"},
    {"sensor: s1", "sensor: s1\n\tx: 1", NULL},
    /* rule files */
    {"verdict_rules: v.yaml", "verdict_rules: nowhere.yaml", NULL},
};

static void wrong_files_say_what_and_where(void **state)
{
	for (size_t i = 0; i < COUNT(mistakes); i++) {
		struct ft_config config;
		struct ft_error err = {0};
		put_changed("t.yaml", base, mistakes[i].find, mistakes[i].replace);
		int error = ft_config_load(&config, "t.yaml", NULL, 0, &err);
		assert_true(error < 0);
		assert_true(ft_config_exit(error) == EX_CONFIG || error == -ENOENT);
		if (mistakes[i].says)
			assert_string_equal(err.text, mistakes[i].says);
		else
			assert_int_equal(strncmp(err.text, "t.yaml:", 7), 0);
		assert_null(config.values);
	}
}

static void a_missing_rule_file_is_named_where_it_was_written(void **state)
{
	char says[200];
	struct ft_config config;
	struct ft_error err = {0};
	put_changed("t.yaml", base, "[p.yaml]", "[nowhere.yaml]");
	assert_int_equal(ft_config_exit(ft_config_load(&config, "t.yaml", NULL, 0, &err)), EX_NOINPUT);
	snprintf(says, sizeof(says), "t.yaml:14:13: cannot open %s/nowhere.yaml: No such file or directory",
		 directory);
	assert_string_equal(err.text, says);
}

static void a_wrong_rule_is_named_in_its_own_file(void **state)
{
	static const struct {
		const char *find, *replace, *place;
	} cases[] = {
	    {"sid: 1000001", "sid: one", "/bad.yaml:2:10: "},
	    {"pattern: ';'", "pattern: '('", "/bad.yaml:5:14: "},
	    {"    pattern: ';'", "    pattren: ';'", "/bad.yaml:"},
	    {"patterns:\n", "patters:\n", "/bad.yaml:"},
	    {"    name: semicolon\n", "", "/bad.yaml:2:5: "},
	};
	for (size_t i = 0; i < COUNT(cases); i++) {
		struct ft_config config;
		struct ft_error err = {0};
		put_changed("bad.yaml", patterns, cases[i].find, cases[i].replace);
		put_changed("t.yaml", base, "[p.yaml]", "[bad.yaml]");
		assert_int_equal(ft_config_load(&config, "t.yaml", NULL, 0, &err), -EINVAL);
		assert_non_null(strstr(err.text, cases[i].place));
	}
}

static void two_files_may_not_share_a_sid(void **state)
{
	struct ft_config config;
	struct ft_error err = {0};
	put("bad.yaml", patterns);
	put_changed("t.yaml", base, "[p.yaml]", "[p.yaml, bad.yaml]");
	assert_int_equal(ft_config_load(&config, "t.yaml", NULL, 0, &err), -EINVAL);
	assert_non_null(strstr(err.text, "/bad.yaml:2:10: "));
}

static void values_are_canonical(void **state)
{
	struct ft_config config;
	struct ft_error err = {0};
	put("t.yaml", base);
	assert_int_equal(ft_config_load(&config, "t.yaml", NULL, 0, &err), 0);
	assert_int_equal(json_integer_value(ft_config_get(&config, "guests.web.memory")), 128 << 20);
	assert_int_equal(json_integer_value(ft_config_get(&config, "clone.horizon")), 60000000000);
	assert_true(json_is_null(ft_config_get(&config, "guests.web.disk")));
	char path[100];
	snprintf(path, sizeof(path), "%s/vmlinuz", directory);
	assert_string_equal(ft_config_text(&config, "guests.web.kernel"), path);
	assert_string_equal(ft_config_text(&config, "feed.file"), "/var/lib/foretaste/feed.json");
	assert_null(ft_config_get(&config, "guests.other.memory"));

	json_t *dataplane = ft_config_dataplane(&config), *vmm = ft_config_vmm(&config, "web");
	json_t *http = json_object_get(json_object_get(dataplane, "services"), "http");
	assert_int_equal(json_integer_value(json_array_get(json_object_get(http, "rules"), 0)), 1000001);
	assert_int_equal(json_array_size(json_object_get(dataplane, "rules")), 1);
	assert_int_equal(json_array_size(json_object_get(dataplane, "verdict_rules")), 1);
	assert_int_equal(json_array_size(json_object_get(dataplane, "correlation_rules")), 1);
	assert_int_equal(json_integer_value(json_object_get(http, "gather")), 2000000);
	const json_t *clone = json_object_get(dataplane, "clone");
	assert_int_equal(json_integer_value(json_object_get(clone, "group")), 256);
	assert_int_equal(json_integer_value(json_object_get(clone, "parallel")), sysconf(_SC_NPROCESSORS_ONLN));
	assert_true(json_is_false(json_object_get(vmm, "has_disk")));
	assert_null(json_object_get(vmm, "kernel"));
	assert_string_equal(json_string_value(json_object_get(vmm, "engine")), "soft");
	assert_string_equal(json_string_value(json_object_get(json_object_get(vmm, "clone"), "engine")), "soft");
	json_decref(dataplane);
	json_decref(vmm);
	ft_config_free(&config);
}

static void several_guests_on_several_uplinks(void **state)
{
	struct ft_config config;
	struct ft_error err = {0};
	/* The same MAC and IP addresses: in another VLAN, and on another uplink. */
	put_changed("bad.yaml", base, "uplink: {port: net_null0}",
		    "uplinks: {wan: {port: net_null0}, lan: {port: net_null1}}");
	char text[4096];
	FILE *file = fopen("bad.yaml", "r");
	text[fread(text, 1, sizeof(text) - 1, file)] = 0;
	fclose(file);
	put_changed("t.yaml", text, "    memory: 128 MiB\n",
		    "    uplink: lan\n    vlan: 7\n    cpu: 150 %\n    backoff: {first: 1 s}\n");
	file = fopen("t.yaml", "r");
	text[fread(text, 1, sizeof(text) - 1, file)] = 0;
	fclose(file);
	put_changed("t.yaml", text, "services:\n",
		    "  b: {kernel: k, mac: '52:54:00:00:02:0f', address: 10.0.2.15, uplink: lan, vlan: 8}\n"
		    "  c: {kernel: k, mac: '52:54:00:00:02:0f', address: 10.0.2.15, uplink: wan, vlan: trunk}\n"
		    "services:\n");
	ft_config_load(&config, "t.yaml", NULL, 0, &err);
	assert_string_equal(err.text, "");
	assert_int_equal(json_integer_value(ft_config_get(&config, "guests.web.cpu")), 150);
	assert_int_equal(json_integer_value(ft_config_get(&config, "guests.web.backoff.first")), 1000000000);
	assert_string_equal(ft_config_text(&config, "guests.b.console"), "/var/lib/foretaste/console-b.log");
	json_t *dataplane = ft_config_dataplane(&config), *guests = json_object_get(dataplane, "guests");
	assert_int_equal(json_object_size(json_object_get(dataplane, "uplinks")), 2);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(guests, "web"), "vlan")), 7);
	assert_string_equal(json_string_value(json_object_get(json_object_get(guests, "b"), "uplink")), "lan");
	assert_string_equal(json_string_value(json_object_get(json_object_get(guests, "c"), "vlan")), "trunk");
	json_decref(dataplane);
	ft_config_free(&config);
	/* One uplink without a name is the only one, and so everybody's. */
	put("t.yaml", base);
	assert_int_equal(ft_config_load(&config, "t.yaml", NULL, 0, &err), 0);
	assert_string_equal(ft_config_text(&config, "uplinks.uplink.port"), "net_null0");
	ft_config_free(&config);
}

static void sinks_are_told_to_the_ledger(void **state)
{
	struct ft_config config;
	struct ft_error err = {0};
	char path[100];
	put("t.yaml", base);
	assert_int_equal(ft_config_load(&config, "t.yaml", NULL, 0, &err), 0);
	json_t *ledger = ft_config_ledger(&config);
	assert_null(json_object_get(ledger, "feed_socket"));
	assert_null(json_object_get(ledger, "feed_syslog"));
	json_decref(ledger);
	ft_config_free(&config);
	const char *sets[] = {"feed.socket=shipper.sock", "feed.buffer=1 MiB", "feed.syslog.socket=/dev/log",
			      "feed.syslog.cookie=cee"};
	assert_int_equal(ft_config_load(&config, "t.yaml", sets, COUNT(sets), &err), 0);
	ledger = ft_config_ledger(&config);
	json_t *syslog = json_object_get(ledger, "feed_syslog");
	snprintf(path, sizeof(path), "%s/shipper.sock", directory);
	assert_string_equal(json_string_value(json_object_get(ledger, "feed_socket")), path);
	assert_int_equal(json_integer_value(json_object_get(ledger, "feed_buffer")), 1 << 20);
	assert_string_equal(json_string_value(json_object_get(syslog, "socket")), "/dev/log");
	assert_string_equal(json_string_value(json_object_get(syslog, "facility")), "local5");
	assert_string_equal(json_string_value(json_object_get(syslog, "severity")), "info");
	assert_string_equal(json_string_value(json_object_get(syslog, "cookie")), "cee");
	assert_int_equal(json_integer_value(json_object_get(syslog, "limit")), 8192);
	json_decref(ledger);
	ft_config_free(&config);
}

static void overrides_come_first(void **state)
{
	struct ft_config config;
	struct ft_error err = {0};
	put("t.yaml", base);
	const char *good[] = {"guests.web.memory=64 MiB", "clone.link.dns=192.0.2.1",
			      "services.http.rules=[]", "guests.web.cmdline=console=ttyS0 quiet"};
	assert_int_equal(ft_config_load(&config, "t.yaml", good, COUNT(good), &err), 0);
	assert_int_equal(json_integer_value(ft_config_get(&config, "guests.web.memory")), 64 << 20);
	assert_string_equal(ft_config_text(&config, "clone.link.dns"), "192.0.2.1");
	assert_string_equal(ft_config_text(&config, "guests.web.cmdline"), "console=ttyS0 quiet");
	ft_config_free(&config);

	static const struct {
		const char *set, *says;
	} bad[] = {
	    {"guests.web.memory=x",
	     "--set:1:19: memory: \"x\" is not a size, expected a number and a unit such as \"256 MiB\""},
	    {"guests.web.memroy=1",
	     "--set:1:1: unknown key \"memroy\" in guests.web, did you mean \"memory\"?"},
	    {"guests", "--set:1:1: \"guests\" is no assignment, expected NAME.KEY=VALUE"},
	    {"sensor.x=1", "--set:1:10: \"x\" cannot be set: what is above it is no map"},
	    {"guests..x=1", "--set:1:11: an empty name in a path"},
	    {"services.http.mode=", "--set:1:20: mode is empty, expected a value"},
	};
	for (size_t i = 0; i < COUNT(bad); i++) {
		err = (struct ft_error){0};
		assert_int_equal(ft_config_load(&config, "t.yaml", &bad[i].set, 1, &err), -EINVAL);
		assert_string_equal(err.text, bad[i].says);
	}
}

/* What `check` prints is a configuration, and the same one. */
static void the_effective_configuration_loads_again(void **state)
{
	struct ft_config first, second;
	put_changed("t.yaml", base, "sensor: s1", "sensor: \"a: b # c\"");
	assert_int_equal(ft_config_load(&first, "t.yaml", NULL, 0, NULL), 0);
	FILE *file = fopen("bad.yaml", "w");
	ft_config_print(&first, file);
	fclose(file);
	struct ft_error err = {0};
	ft_config_load(&second, "bad.yaml", NULL, 0, &err);
	assert_string_equal(err.text, "");
	assert_true(json_equal(first.values, second.values));
	ft_config_free(&first);
	ft_config_free(&second);
}

static char *slurp(const char *path)
{
	FILE *file = fopen(path, "r");
	assert_non_null(file);
	char *text = calloc(1, 1 << 20);
	assert_non_null(text);
	text[fread(text, 1, (1 << 20) - 1, file)] = 0;
	fclose(file);
	return text;
}

/* config/foretaste.yaml has every key with its default, because it is what the table writes. */
static void the_shipped_file_is_the_table(void **state)
{
	char *shipped = slurp(SOURCE "/config/foretaste.yaml"), *table = NULL;
	size_t size;
	FILE *file = open_memstream(&table, &size);
	ft_keys_template(file);
	fclose(file);
	assert_string_equal(shipped, table);
	free(shipped);
	free(table);

	struct ft_config config;
	struct ft_error err = {0};
	ft_config_load(&config, SOURCE "/config/foretaste.yaml", NULL, 0, &err);
	assert_string_equal(err.text, "");
	for (size_t i = 0; i < ft_keys_count; i++) {
		const struct ft_key *key = &ft_keys[i];
		assert_true(key->doc || *ft_key_last(key) == '*');
		if (key->kind != FT_KEY_MAP)
			assert_true(key->fallback || key->example);
	}
	ft_config_free(&config);
}

static void the_quickstart_file_is_right(void **state)
{
	struct ft_config config;
	struct ft_error err = {0};
	if (access(SOURCE "/config/quickstart.yaml", R_OK))
		skip();
	ft_config_load(&config, SOURCE "/config/quickstart.yaml", NULL, 0, &err);
	assert_string_equal(err.text, "");
	ft_config_free(&config);
}

static void hostile_yaml_is_bounded(void **state)
{
	struct ft_yaml *root;
	struct ft_error err = {0};
	char deep[400];
	memset(deep, '[', sizeof(deep));
	assert_int_equal(ft_yaml_parse(deep, sizeof(deep), "x", &root, &err), -EINVAL);
	assert_string_equal(err.text, "x:1:33: nested more than 32 deep");
	size_t length = 2 * (FT_YAML_NODES + 2);
	char *wide = malloc(length);
	for (size_t i = 0; i < length; i++)
		wide[i] = i == 0 ? '[' : i % 2 ? '1' : ',';
	err = (struct ft_error){0};
	assert_int_equal(ft_yaml_parse(wide, length, "x", &root, &err), -EINVAL);
	assert_non_null(strstr(err.text, "more than 200000 values in one file"));
	length = 0;
	wide[length++] = '{';
	for (unsigned i = 0; i <= FT_YAML_MAP_ENTRIES; i++)
		length += (size_t)sprintf(wide + length, "k%u: 1,", i);
	err = (struct ft_error){0};
	assert_int_equal(ft_yaml_parse(wide, length, "x", &root, &err), -EINVAL);
	assert_non_null(strstr(err.text, "more than 4096 entries in one map"));
	free(wide);
	err = (struct ft_error){0};
	assert_int_equal(ft_yaml_parse("a: \xff\xfe\x01", 6, "x", &root, &err), -EINVAL);
	assert_int_equal(strncmp(err.text, "x:", 2), 0);
	/* Every prefix of a good file, and every byte of it changed, is read or refused, never more. */
	for (size_t cut = 0; cut < sizeof(base); cut++)
		if (!ft_yaml_parse(base, cut, "x", &root, NULL))
			ft_yaml_free(root);
	char copy[sizeof(base)];
	for (size_t i = 0; i < sizeof(base) - 1; i++)
		for (int c = 1; c < 256; c += 37) {
			memcpy(copy, base, sizeof(base));
			copy[i] = (char)c;
			if (!ft_yaml_parse(copy, sizeof(copy) - 1, "x", &root, NULL))
				ft_yaml_free(root);
		}
}

static void yaml_becomes_json_as_its_core_schema_says(void **state)
{
	static const char text[] =
	    "{a: 1, b: '1', c: true, d: ~, e: 1.5, f: 0x10, g: 0o17, h: 1.2.3.4, i: nan, "
	    "j: -3, k: 10 s, l: [x, {m: n}], \"o/p\": 1, q: null, r: .inf}";
	static const char json[] =
	    "{\"a\":1,\"b\":\"1\",\"c\":true,\"d\":null,\"e\":1.5,\"f\":16,\"g\":15,\"h\":\"1.2.3.4\","
	    "\"i\":\"nan\",\"j\":-3,\"k\":\"10 "
	    "s\",\"l\":[\"x\",{\"m\":\"n\"}],\"o/p\":1,\"q\":null,\"r\":\".inf\"}";
	struct ft_yaml *root;
	assert_int_equal(ft_yaml_parse(text, sizeof(text) - 1, "x", &root, NULL), 0);
	json_t *got = ft_yaml_json(root), *expected = json_loads(json, 0, NULL);
	assert_non_null(expected);
	assert_true(json_equal(got, expected));
	json_decref(got);
	json_decref(expected);
	assert_int_equal(ft_yaml_at(root, "/l/1/m")->column, strstr(text, "n}]") - text + 1);
	assert_ptr_equal(ft_yaml_at(root, "/o~1p"), ft_yaml_get(root, "o/p"));
	assert_ptr_equal(ft_yaml_at(root, "/l/7/m"), ft_yaml_get(root, "l"));
	ft_yaml_free(root);
}

static void suggestions_are_close(void **state)
{
	static const char *const words[] = {"memory", "kernel", "mode"};
	assert_string_equal(ft_suggest("memroy", words, 3), "memory");
	assert_string_equal(ft_suggest("moed", words, 3), "mode");
	assert_null(ft_suggest("xyzzy", words, 3));
	assert_int_equal(ft_suggest_distance("kitten", "sitting"), 3);
	assert_int_equal(ft_suggest_distance("ab", "ba"), 1);
	char longest[200];
	memset(longest, 'a', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = 0;
	assert_null(ft_suggest(longest, words, 3));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(wrong_files_say_what_and_where),
	    cmocka_unit_test(a_missing_rule_file_is_named_where_it_was_written),
	    cmocka_unit_test(a_wrong_rule_is_named_in_its_own_file),
	    cmocka_unit_test(two_files_may_not_share_a_sid),
	    cmocka_unit_test(values_are_canonical),
	    cmocka_unit_test(several_guests_on_several_uplinks),
	    cmocka_unit_test(sinks_are_told_to_the_ledger),
	    cmocka_unit_test(overrides_come_first),
	    cmocka_unit_test(the_effective_configuration_loads_again),
	    cmocka_unit_test(the_shipped_file_is_the_table),
	    cmocka_unit_test(the_quickstart_file_is_right),
	    cmocka_unit_test(hostile_yaml_is_bounded),
	    cmocka_unit_test(yaml_becomes_json_as_its_core_schema_says),
	    cmocka_unit_test(suggestions_are_close),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
