/* foretaste: the command line. */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/printable.h"
#include "cli/client.h"
#include "cli/completion.h"
#include "cli/console.h"
#include "cli/feed.h"
#include "cli/print.h"
#include "cli/prove.h"
#include "cli/replay.h"
#include "cli/snapshot.h"
#include "gateway/config.h"
#include "gateway/engine.h"
#include "gateway/files.h"
#include "gateway/keys.h"
#include "gateway/suggest.h"
#include "metrics/exposition.h"

#define SETS    64
#define CONTROL "/run/foretaste/control.sock"

struct arguments {
	const char *config, *control, *file, *key;
	const char *sets[SETS];
	size_t set_count;
	bool json, follow, template, attach;
	unsigned last;
	char **rest; /* behind the command */
	int rest_count;
};

static int run(const struct arguments *a, struct ft_error *err);
static int check(const struct arguments *a, struct ft_error *err);
static int status(const struct arguments *a, struct ft_error *err);
static int guests(const struct arguments *a, struct ft_error *err);
static int guest(const struct arguments *a, struct ft_error *err);
static int snapshot(const struct arguments *a, struct ft_error *err);
static int holds(const struct arguments *a, struct ft_error *err);
static int verdicts(const struct arguments *a, struct ft_error *err);
static int show(const struct arguments *a, struct ft_error *err);
static int release(const struct arguments *a, struct ft_error *err);
static int drop(const struct arguments *a, struct ft_error *err);
static int mode(const struct arguments *a, struct ft_error *err);
static int shadow(const struct arguments *a, struct ft_error *err);
static int bypass(const struct arguments *a, struct ft_error *err);
static int suppress(const struct arguments *a, struct ft_error *err);
static int reload(const struct arguments *a, struct ft_error *err);
static int reopen_logs(const struct arguments *a, struct ft_error *err);
static int feed(const struct arguments *a, struct ft_error *err);
static int metrics(const struct arguments *a, struct ft_error *err);
static int verify(const struct arguments *a, struct ft_error *err);
static int prove(const struct arguments *a, struct ft_error *err);
static int replay(const struct arguments *a, struct ft_error *err);
static int disk(const struct arguments *a, struct ft_error *err);
static int completion(const struct arguments *a, struct ft_error *err);

static const struct {
	const char *name, *rest, *does;
	int least, most; /* arguments behind it */
	int (*run)(const struct arguments *a, struct ft_error *err);
} commands[] = {
    {"run", "[FILE]", "run the gateway in the foreground", 0, 1, run},
    {"check", "[FILE]", "validate a configuration and print what is in effect", 0, 1, check},
    {"status", "", "the gateway, its guests and its processes", 0, 0, status},
    {"guests", "", "the guests: where they are and how they do", 0, 0, guests},
    {"guest", "start|stop|restart|console NAME", "one guest; console shows its log and goes on", 2, 2, guest},
    {"snapshot", "save GUEST [NAME]|restore GUEST NAME|list|verify NAME|delete NAME|attach GUEST", "guests as they were, in files", 1, 3,
     snapshot},
    {"disk", "history|cat|export GUEST...", "what was on a guest's disk, and when (see foretaste disk --help)", 0, INT_MAX, disk},
    {"replay", "GUEST|DIR|--verdict ID...", "a recorded guest's run, or a verdict, again (see foretaste replay --help)", 0, INT_MAX, replay},
    {"holds", "", "input that is held right now", 0, 0, holds},
    {"verdicts", "", "the last verdicts", 0, 0, verdicts},
    {"show", "ID", "the whole story of one hold", 1, 1, show},
    {"release", "ID", "let a hold go on, without its verdict", 1, 1, release},
    {"drop", "ID", "drop a hold, without its verdict", 1, 1, drop},
    {"mode", "SERVICE observe|shadow|enforce", "switch a service's mode", 2, 2, mode},
    {"shadow", "SERVICE", "what a service in shadow mode would have held, dropped and delayed", 1, 1, shadow},
    {"bypass", "on|off [SERVICE]", "switch inspection off, or on again", 1, 2, bypass},
    {"suppress", "list|add KEY=VALUE...|remove NUMBER", "findings that are ignored for a time", 1, 6, suppress},
    {"reload", "", "put the changed configuration file in force", 0, 0, reload},
    {"reopen-logs", "", "go on in new files after a rotation", 0, 0, reopen_logs},
    {"feed", "", "the feed as a table", 0, 0, feed},
    {"metrics", "", "counters, as Prometheus reads them", 0, 0, metrics},
    {"verify", "DIR --key KEY...", "is a ledger what was signed? (see foretaste-verify --help)", 0, INT_MAX, verify},
    {"prove", "ID|entry=NUMBER|from=SIZE|checkpoint [DIR]", "a proof out of the ledger, for whoever has its public key", 1, 2, prove},
    {"completion", "bash", "print what completes this command line in a shell", 1, 1, completion},
};

#define COMMANDS (sizeof(commands) / sizeof(*commands))

static void usage(FILE *file)
{
	fprintf(file, "usage: foretaste COMMAND [OPTION]...\n\n");
	for (size_t i = 0; i < COMMANDS; i++)
		fprintf(file, "  %-10s %-8s  %s\n", commands[i].name, commands[i].rest, commands[i].does);
	fprintf(file,
		"\n"
		"  -c, --config FILE      configuration, %s unless given\n"
		"      --set NAME.KEY=V   override a key of it (run, check)\n"
		"      --control PATH     control socket; else the configuration's, else %s\n"
		"  -j, --json             JSON instead of text\n"
		"  -n, --last N           how many verdicts (verdicts, feed) or lines (console); 50 unless given\n"
		"  -f, --follow           keep printing what comes (feed)\n"
		"      --file PATH        read this feed file, without a gateway (feed)\n"
		"      --attach           a restored guest is on its network at once (snapshot restore)\n"
		"      --key FILE         the key of encrypted snapshots, without a gateway that has it (snapshot verify)\n"
		"      --template         print a file with every key and its default (check)\n"
		"  -h, --help             this text\n"
		"      --version          version\n\n"
		"Exit codes are those of sysexits(3): 64 usage, 66 no such input, 69 no gateway or in use,\n"
		"77 no permission, 78 configuration.\n",
		FT_CONFIG_PATH, CONTROL);
}

/* ---- run, check --------------------------------------------------------------------------------------------- */

static const char *config_file(const struct arguments *a)
{
	return a->rest_count ? a->rest[0] : a->config ? a->config : FT_CONFIG_PATH;
}

static bool beside(char *path, const char *own, const char *where)
{
	return snprintf(path, PATH_MAX, "%s/%s", own, where) < PATH_MAX && !access(path, X_OK);
}

/* The directory that this program is in. */
static void own_directory(char own[PATH_MAX])
{
	ssize_t n = readlink("/proc/self/exe", own, PATH_MAX - 1);
	own[n > 0 ? n : 0] = 0;
	char *slash = strrchr(own, '/');
	if (slash)
		*slash = 0;
}

/* Becomes foretasted: it has the signals and the terminal to itself. */
static int run(const struct arguments *a, struct ft_error *err)
{
	char own[PATH_MAX], path[PATH_MAX];
	own_directory(own);
	if (!beside(path, own, "foretasted") && !beside(path, own, "../gateway/foretasted") &&
	    !beside(path, own, "../libexec/foretaste/foretasted")) {
		ft_error_set(err, -ENOENT, "there is no foretasted beside %s", own);
		return EX_UNAVAILABLE;
	}
	const char *command[4 + 2 * SETS] = {path, "--config", config_file(a)};
	size_t count = 3;
	for (size_t i = 0; i < a->set_count; i++) {
		command[count++] = "--set";
		command[count++] = a->sets[i];
	}
	command[count] = NULL;
	execv(path, (char **)command);
	ft_error_set(err, -errno, "cannot execute %s: %s", path, strerror(errno));
	return EX_OSERR;
}

/* ---- The tamper-evident log ------------------------------------------------------------------------------------ */

/* Becomes foretaste-verify, which has options of its own and shares nothing with us. */
static int verify(const struct arguments *a, struct ft_error *err)
{
	char own[PATH_MAX], path[PATH_MAX];
	own_directory(own);
	if (!beside(path, own, "foretaste-verify") && !beside(path, own, "../verify/foretaste-verify")) {
		ft_error_set(err, -ENOENT, "there is no foretaste-verify beside %s", own);
		return EX_UNAVAILABLE;
	}
	/* a->rest[-1] is "verify": its place is the program's name. */
	char **command = a->rest - 1;
	command[0] = path;
	execv(path, command);
	ft_error_set(err, -errno, "cannot execute %s: %s", path, strerror(errno));
	return EX_OSERR;
}

static int prove(const struct arguments *a, struct ft_error *err)
{
	char path[PATH_MAX];
	struct ft_config config;
	int error = 0;
	if (a->rest_count > 1) {
		snprintf(path, sizeof(path), "%s", a->rest[1]);
	} else {
		error = ft_config_load(&config, a->config ? a->config : FT_CONFIG_PATH, a->sets, a->set_count, err);
		if (error)
			return ft_config_exit(error);
		snprintf(path, sizeof(path), "%s/ledger", ft_config_text(&config, "state"));
		ft_config_free(&config);
	}
	error = ft_prove(path, a->rest[0], err);
	return !error		  ? 0
	       : error == -EINVAL ? EX_USAGE
	       : error == -EACCES ? EX_NOPERM
				  : EX_NOINPUT;
}

static int check(const struct arguments *a, struct ft_error *err)
{
	if (a->template) {
		ft_keys_template(stdout);
		return 0;
	}
	struct ft_config config;
	int error = ft_config_load(&config, config_file(a), a->sets, a->set_count, err);
	if (error)
		return ft_config_exit(error);
	if (a->json) {
		json_dumpf(config.values, stdout, JSON_INDENT(2));
		putchar('\n');
	} else {
		ft_config_print(&config, stdout);
	}
	if (!a->json)
		ft_engine_print(&config, stdout);
	/* What is in effect is printed first: it helps to find a file that is not where it should be. */
	fflush(stdout);
	error = ft_files_check(&config, err);
	ft_config_free(&config);
	return ft_config_exit(error);
}

/* ---- Questions to the gateway -------------------------------------------------------------------------------- */

/* Where the gateway answers: as given, or as its configuration says, or where it does by default. */
static int control_path(const struct arguments *a, char path[PATH_MAX], struct ft_error *err)
{
	const char *environment = getenv("FORETASTE_CONTROL");
	const char *given = a->control ? a->control : a->config ? NULL : environment ? environment : CONTROL;
	if (given) {
		snprintf(path, PATH_MAX, "%s", given);
		return 0;
	}
	struct ft_config config;
	int error = ft_config_load(&config, a->config, a->sets, a->set_count, err);
	if (error)
		return ft_config_exit(error);
	snprintf(path, PATH_MAX, "%s", ft_config_text(&config, "control"));
	ft_config_free(&config);
	return 0;
}

static int ask(const struct arguments *a, json_t *request, json_t **result, struct ft_error *err)
{
	char path[PATH_MAX];
	int code = control_path(a, path, err);
	if (!code)
		return ft_client_ask(path, request, result, err);
	json_decref(request);
	return code;
}

#define OTHER_WORDS 32

static int ask_for(const void *context, json_t *request, json_t **result, struct ft_error *err)
{
	return ask(context, request, result, err);
}

/* Becomes foretaste-replay, which has options of its own. */
static int replay(const struct arguments *a, struct ft_error *err)
{
	char own[PATH_MAX], path[PATH_MAX];
	struct ft_cli_replay r = {.ask = ask_for, .context = a};
	own_directory(own);
	if (!beside(path, own, "foretaste-replay") && !beside(path, own, "../replay/foretaste-replay") &&
	    !beside(path, own, "../libexec/foretaste/foretaste-replay")) {
		ft_error_set(err, -ENOENT, "there is no foretaste-replay beside %s", own);
		return EX_UNAVAILABLE;
	}
	int code = ft_cli_replay(&r, a->rest, a->rest_count, err);
	if (code)
		return code;
	const char *command[FT_CLI_REPLAY_WORDS + 2] = {path};
	memcpy(command + 1, r.words, (r.count + 1) * sizeof(*command));
	execv(path, (char **)command);
	ft_error_set(err, -errno, "cannot execute %s: %s", path, strerror(errno));
	return EX_OSERR;
}

/* The two files that a guest's name stands for in the configuration: the gateway need not run. */
static int disk_files(const struct arguments *a, const char *guest, char overlay[PATH_MAX], char image[PATH_MAX], struct ft_error *err)
{
	struct ft_config config;
	char key[128];
	int error = ft_config_load(&config, a->config ? a->config : FT_CONFIG_PATH, a->sets, a->set_count, err);
	if (error)
		return ft_config_exit(error);
	snprintf(key, sizeof(key), "guests.%.64s.disk", guest);
	const char *file = ft_config_text(&config, key);
	snprintf(overlay, PATH_MAX, "%s/disks/%s", ft_config_text(&config, "state"), guest);
	snprintf(image, PATH_MAX, "%s", file ? file : "");
	ft_config_free(&config);
	if (file)
		return 0;
	ft_error_set(err, -ENOENT, "there is no guest \"%.64s\" with a disk in the configuration", guest);
	return EX_USAGE;
}

/* Becomes foretaste-disk, which has options of its own and whose files are given instead of a guest's name. */
static int disk(const struct arguments *a, struct ft_error *err)
{
	char own[PATH_MAX], path[PATH_MAX], overlay[PATH_MAX], image[PATH_MAX];
	own_directory(own);
	if (!beside(path, own, "foretaste-disk") && !beside(path, own, "../disk/foretaste-disk") &&
	    !beside(path, own, "../libexec/foretaste/foretaste-disk")) {
		ft_error_set(err, -ENOENT, "there is no foretaste-disk beside %s", own);
		return EX_UNAVAILABLE;
	}
	const char *command[5 + OTHER_WORDS] = {path};
	size_t count = 1;
	for (int i = 0; i < a->rest_count && i < OTHER_WORDS; i++) {
		command[count++] = a->rest[i];
		if (i != 1 || a->rest[0][0] == '-' || a->rest[1][0] == '-' || strchr(a->rest[1], '/'))
			continue;
		int code = disk_files(a, a->rest[1], overlay, image, err);
		if (code)
			return code;
		command[count - 1] = overlay;
		command[count++] = image;
	}
	command[count] = NULL;
	execv(path, (char **)command);
	ft_error_set(err, -errno, "cannot execute %s: %s", path, strerror(errno));
	return EX_OSERR;
}

/* Asks, and prints the answer as JSON or by print. */
static int ask_and_print(const struct arguments *a, json_t *request, void (*print)(FILE *, const json_t *),
			 struct ft_error *err)
{
	json_t *result;
	int code = ask(a, request, &result, err);
	if (code)
		return code;
	if (a->json) {
		json_dumpf(result, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
		putchar('\n');
	} else {
		print(stdout, result);
	}
	json_decref(result);
	return 0;
}

static int status(const struct arguments *a, struct ft_error *err)
{
	return ask_and_print(a, json_pack("{s:s}", "what", "status"), ft_print_status, err);
}

/* What supervisor and dataplane know of each guest, together. New reference or NULL. */
static json_t *join_guests(const json_t *status)
{
	json_t *guests = json_deep_copy(json_object_get(status, "guests")), *guest;
	const json_t *traffic = ft_print_at(status, "processes.dataplane.status.guests");
	const json_t *processes = json_object_get(status, "processes");
	const char *name;
	json_object_foreach(guests, name, guest)
	{
		char process[80];
		snprintf(process, sizeof(process), "vmm %s", name);
		json_object_update_missing(guest, json_object_get(processes, process));
		json_object_del(guest, "status");
		json_object_update_missing(guest, json_object_get(traffic, name));
	}
	return guests;
}

static int guests(const struct arguments *a, struct ft_error *err)
{
	json_t *status;
	int code = ask(a, json_pack("{s:s}", "what", "status"), &status, err);
	if (code)
		return code;
	json_t *all = join_guests(status);
	if (a->json) {
		json_dumpf(all, stdout, JSON_INDENT(2));
		putchar('\n');
	} else {
		ft_print_guests(stdout, all);
	}
	json_decref(all);
	json_decref(status);
	return 0;
}

#define CHANGE_S 90 /* a start, and a stop, have time limits of the gateway's own below this */

/* Waits until a guest that was told to change has done so; *state is where it ended. */
static int await_guest(const struct arguments *a, const char *name, char state[32], struct ft_error *err)
{
	for (int i = 0; i < CHANGE_S * 10; i++) {
		json_t *status;
		int code = ask(a, json_pack("{s:s}", "what", "status"), &status, err);
		if (code)
			return code;
		const json_t *guest = json_object_get(json_object_get(status, "guests"), name);
		const char *now = json_string_value(json_object_get(guest, "state"));
		snprintf(state, 32, "%s", now ? now : "");
		json_decref(status);
		if (strcmp(state, "stopping") && strcmp(state, "starting") && strcmp(state, "down"))
			return 0;
		nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
	}
	ft_error_set(err, -ETIMEDOUT, "guest %s is still %s", name, state);
	return EX_TEMPFAIL;
}

static int guest(const struct arguments *a, struct ft_error *err)
{
	static const char *const actions[] = {"start", "stop", "restart", "console"};
	const char *action = a->rest[0], *name = a->rest[1];
	char what[32] = "", state[32] = "";
	for (size_t i = 0; i < sizeof(actions) / sizeof(*actions); i++)
		if (!strcmp(action, actions[i]))
			snprintf(what, sizeof(what), "guest-%s", action);
	if (!*what) {
		const char *meant = ft_suggest(action, actions, sizeof(actions) / sizeof(*actions));
		ft_error_set(err, -EINVAL, "a guest cannot be told to \"%.40s\"%s%s%s", action,
			     meant ? ", did you mean \"" : ", expected start, stop, restart or console",
			     meant ? meant : "", meant ? "\"?" : "");
		return EX_USAGE;
	}
	json_t *result;
	int code = ask(a, json_pack("{s:s, s:s}", "what", what, "guest", name), &result, err);
	if (code)
		return code;
	const char *file = json_string_value(json_object_get(result, "file"));
	if (file)
		code = ft_console_show(stdout, file, a->last, err);
	else
		code = await_guest(a, name, state, err);
	json_decref(result);
	if (code || file)
		return code;
	if (a->json)
		printf("{\"guest\": \"%s\", \"state\": \"%s\"}\n", name, state);
	else
		printf("guest %s: %s\n", name, state);
	bool stopped = !strcmp(state, "stopped");
	if (stopped == !strcmp(action, "stop"))
		return 0;
	ft_error_set(err, -EIO, "guest %s is %s; its log and the gateway's say why", name, state);
	return EX_UNAVAILABLE;
}

static int snapshot(const struct arguments *a, struct ft_error *err)
{
	struct ft_cli_snapshot c = {.ask = ask_for, .context = a, .json = a->json, .attach = a->attach, .key = a->key};
	return ft_cli_snapshot(&c, a->rest, a->rest_count, err);
}

static int holds(const struct arguments *a, struct ft_error *err)
{
	return ask_and_print(a, json_pack("{s:s}", "what", "holds"), ft_print_holds, err);
}

static int verdicts(const struct arguments *a, struct ft_error *err)
{
	return ask_and_print(a, json_pack("{s:s, s:i}", "what", "verdicts", "limit", (int)a->last),
			     ft_print_verdicts, err);
}

/* The hold that a command names, or -1. */
static long long hold_of(const struct arguments *a, const char *list, struct ft_error *err)
{
	char *end;
	errno = 0;
	long long hold = strtoll(a->rest[0], &end, 10);
	if (*a->rest[0] && !*end && !errno && hold >= 0)
		return hold;
	ft_error_set(err, -EINVAL, "\"%s\" is no hold, expected its number as `foretaste %s` shows it", a->rest[0],
		     list);
	return -1;
}

static int show(const struct arguments *a, struct ft_error *err)
{
	long long hold = hold_of(a, "verdicts", err);
	if (hold < 0)
		return EX_USAGE;
	return ask_and_print(a, json_pack("{s:s, s:I}", "what", "show", "hold", (json_int_t)hold),
			     ft_print_story, err);
}

/* ---- What operators change ------------------------------------------------------------------------------------ */

static void print_decided(FILE *file, const json_t *result)
{
	char done[32];
	fprintf(file, "hold %" JSON_INTEGER_FORMAT " was %s\n", json_integer_value(json_object_get(result, "hold")),
		ft_print_text(result, "done", done, sizeof(done)));
}

static int decide(const struct arguments *a, const char *what, struct ft_error *err)
{
	long long hold = hold_of(a, "holds", err);
	if (hold < 0)
		return EX_USAGE;
	return ask_and_print(a, json_pack("{s:s, s:I}", "what", what, "hold", (json_int_t)hold), print_decided,
			     err);
}

static int release(const struct arguments *a, struct ft_error *err)
{
	return decide(a, "release", err);
}

static int drop(const struct arguments *a, struct ft_error *err)
{
	return decide(a, "drop", err);
}

static void print_mode(FILE *file, const json_t *result)
{
	char service[64], now[32], before[32];
	fprintf(file, "service %s: %s, was %s\n", ft_print_text(result, "service", service, sizeof(service)),
		ft_print_text(result, "mode", now, sizeof(now)),
		ft_print_text(result, "before", before, sizeof(before)));
	if (json_object_get(result, "report"))
		ft_print_shadow(file, json_object_get(result, "report"));
}

static int mode(const struct arguments *a, struct ft_error *err)
{
	return ask_and_print(
	    a, json_pack("{s:s, s:s, s:s}", "what", "mode", "service", a->rest[0], "mode", a->rest[1]),
	    print_mode, err);
}

static int shadow(const struct arguments *a, struct ft_error *err)
{
	return ask_and_print(a, json_pack("{s:s, s:s}", "what", "shadow", "service", a->rest[0]),
			     ft_print_shadow, err);
}

static void print_bypass(FILE *file, const json_t *result)
{
	size_t i;
	json_t *name;
	if (!json_array_size(json_object_get(result, "services"))) {
		fprintf(file, "every service is inspected\n");
		return;
	}
	fprintf(file, "NOT INSPECTED:");
	json_array_foreach(json_object_get(result, "services"), i, name)
	{
		char text[64];
		fprintf(file, " %s",
			ft_printable(text, sizeof(text), json_string_value(name), json_string_length(name)));
	}
	fprintf(file, "\n");
}

static int bypass(const struct arguments *a, struct ft_error *err)
{
	bool on = !strcmp(a->rest[0], "on");
	if (!on && strcmp(a->rest[0], "off")) {
		ft_error_set(err, -EINVAL, "bypass is \"%.40s\", expected on or off", a->rest[0]);
		return EX_USAGE;
	}
	return ask_and_print(a,
			     json_pack("{s:s, s:b, s:s*}", "what", "bypass", "on", on, "service",
				       a->rest_count > 1 ? a->rest[1] : NULL),
			     print_bypass, err);
}

/* sid=N network=N service=NAME for=DURATION comment=TEXT; what is wrong with their values the gateway says. */
static json_t *suppression_of(const struct arguments *a, struct ft_error *err)
{
	static const char *const keys[] = {"sid", "network", "service", "for", "comment"};
	const size_t count = sizeof(keys) / sizeof(*keys);
	json_t *request = json_pack("{s:s}", "what", "suppress");
	for (int i = 1; i < a->rest_count; i++) {
		const char *equals = strchr(a->rest[i], '=');
		char key[16] = "";
		bool known = false;
		if (equals && equals - a->rest[i] < (int)sizeof(key))
			snprintf(key, sizeof(key), "%.*s", (int)(equals - a->rest[i]), a->rest[i]);
		for (size_t k = 0; k < count; k++)
			known |= !strcmp(key, keys[k]);
		if (!known) {
			const char *meant = ft_suggest(key, keys, count);
			ft_error_set(err, -EINVAL, "\"%.60s\" is not understood, expected %s%s", a->rest[i],
				     meant ? meant : "sid=, network=, service=, for= or comment=",
				     meant ? "=" : "");
			json_decref(request);
			return NULL;
		}
		char *end = NULL;
		long long sid = !strcmp(key, "sid") ? strtoll(equals + 1, &end, 10) : 0;
		json_object_set_new(request, key, end ? json_integer(*end ? -1 : sid) : json_string(equals + 1));
	}
	return request;
}

static int suppress(const struct arguments *a, struct ft_error *err)
{
	static const char *const actions[] = {"list", "add", "remove"};
	const char *action = a->rest[0];
	if (!strcmp(action, "list") && a->rest_count == 1)
		return ask_and_print(a, json_pack("{s:s}", "what", "suppressions"), ft_print_suppressions, err);
	if (!strcmp(action, "add")) {
		json_t *request = suppression_of(a, err);
		return request ? ask_and_print(a, request, ft_print_suppression, err) : EX_USAGE;
	}
	if (!strcmp(action, "remove") && a->rest_count == 2)
		return ask_and_print(a,
				     json_pack("{s:s, s:I}", "what", "unsuppress", "suppression",
					       (json_int_t)strtoll(a->rest[1], NULL, 10)),
				     ft_print_suppression, err);
	const char *meant = ft_suggest(action, actions, 3);
	ft_error_set(err, -EINVAL, "suppress \"%.40s\" is not understood%s%s%s", action,
		     meant ? ", did you mean \"" : ", expected list, add or remove", meant ? meant : "",
		     meant ? "\"?" : "");
	return EX_USAGE;
}

static void print_reloaded(FILE *file, const json_t *result)
{
	fprintf(file, "the configuration was reloaded\n");
}

static int reload(const struct arguments *a, struct ft_error *err)
{
	ft_client_patience(600); /* patterns are compiled first */
	return ask_and_print(a, json_pack("{s:s}", "what", "reload"), print_reloaded, err);
}

static void print_reopened(FILE *file, const json_t *result)
{
	fprintf(file, "the logs were reopened\n");
}

static int reopen_logs(const struct arguments *a, struct ft_error *err)
{
	return ask_and_print(a, json_pack("{s:s}", "what", "reopen-logs"), print_reopened, err);
}

static int feed(const struct arguments *a, struct ft_error *err)
{
	if (a->file)
		return ft_feed_print(stdout, a->file, a->last, a->json, a->follow, err);
	json_t *status;
	int code = ask(a, json_pack("{s:s}", "what", "status"), &status, err);
	if (code)
		return code;
	const char *path = json_string_value(json_object_get(status, "feed"));
	code = ft_feed_print(stdout, path ? path : "", a->last, a->json, a->follow, err);
	json_decref(status);
	return code;
}

static int metrics(const struct arguments *a, struct ft_error *err)
{
	return ask_and_print(a, json_pack("{s:s}", "what", a->json ? "counters" : "metrics"), ft_exposition_print, err);
}

/* ---- main ----------------------------------------------------------------------------------------------------- */

enum { OPTION_SET = 256, OPTION_CONTROL, OPTION_FILE, OPTION_TEMPLATE, OPTION_ATTACH, OPTION_KEY, OPTION_VERSION };

static const struct option options[] = {{"config", required_argument, NULL, 'c'},
					{"set", required_argument, NULL, OPTION_SET},
					{"control", required_argument, NULL, OPTION_CONTROL},
					{"json", no_argument, NULL, 'j'},
					{"last", required_argument, NULL, 'n'},
					{"follow", no_argument, NULL, 'f'},
					{"file", required_argument, NULL, OPTION_FILE},
					{"attach", no_argument, NULL, OPTION_ATTACH},
					{"key", required_argument, NULL, OPTION_KEY},
					{"template", no_argument, NULL, OPTION_TEMPLATE},
					{"help", no_argument, NULL, 'h'},
					{"version", no_argument, NULL, OPTION_VERSION},
					{NULL, 0, NULL, 0}};

static int completion(const struct arguments *a, struct ft_error *err)
{
	static const char *const paths[] = {"config", "control", "file", "key", NULL};
	struct ft_completion_command all[COMMANDS];
	if (strcmp(a->rest[0], "bash")) {
		ft_error_set(err, -EINVAL, "there is no completion for \"%.64s\", only for bash", a->rest[0]);
		return EX_USAGE;
	}
	for (size_t i = 0; i < COMMANDS; i++)
		all[i] = (struct ft_completion_command){commands[i].name, commands[i].rest};
	ft_completion_bash(stdout, all, COMMANDS, options, paths);
	return 0;
}

/* -1: go on; otherwise the exit code. */
static int parse(int argc, char **argv, struct arguments *a)
{
	for (int c; (c = getopt_long(argc, argv, "c:jn:fh", options, NULL)) != -1;) {
		char *end;
		switch (c) {
		case 'c':
			a->config = optarg;
			break;
		case OPTION_SET:
			if (a->set_count == SETS) {
				fprintf(stderr, "foretaste: more than %d --set, expected a file for so many\n",
					SETS);
				return EX_USAGE;
			}
			a->sets[a->set_count++] = optarg;
			break;
		case OPTION_CONTROL:
			a->control = optarg;
			break;
		case OPTION_FILE:
			a->file = optarg;
			break;
		case 'j':
			a->json = true;
			break;
		case 'f':
			a->follow = true;
			break;
		case 'n':
			a->last = (unsigned)strtoul(optarg, &end, 10);
			if (!*optarg || *end || a->last < 1 || a->last > 1000) {
				fprintf(stderr,
					"foretaste: --last is \"%s\", expected a number from 1 to 1000\n",
					optarg);
				return EX_USAGE;
			}
			break;
		case OPTION_ATTACH:
			a->attach = true;
			break;
		case OPTION_KEY:
			a->key = optarg;
			break;
		case OPTION_TEMPLATE:
			a->template = true;
			break;
		case OPTION_VERSION:
			printf("foretaste %s\n", FT_VERSION);
			return EX_OK;
		case 'h':
			usage(stdout);
			return EX_OK;
		default:
			fprintf(stderr, "Try \"foretaste --help\".\n");
			return EX_USAGE;
		}
	}
	return -1;
}

static int unknown_command(const char *name)
{
	const char *known[COMMANDS];
	for (size_t i = 0; i < COMMANDS; i++)
		known[i] = commands[i].name;
	const char *meant = ft_suggest(name, known, COMMANDS);
	fprintf(stderr, "foretaste: there is no command \"%s\"%s%s%s\n", name,
		meant ? ", did you mean \"" : "", meant ? meant : ". Try \"foretaste --help\".",
		meant ? "\"?" : "");
	return EX_USAGE;
}

int main(int argc, char **argv)
{
	struct arguments a = {.last = 50};
	/* What follows is the verifier's, its options too. */
	if (argc > 1 && !strcmp(argv[1], "verify")) {
		struct ft_error err = {0};
		a.rest = argv + 2;
		int failed = verify(&a, &err);
		fprintf(stderr, "foretaste: %s\n", err.text);
		return failed;
	}
	/* So is what follows here, but for where the gateway is, which may stand in front. */
	int at = 1;
	for (; at + 2 < argc && (!strcmp(argv[at], "--control") || !strcmp(argv[at], "--config") || !strcmp(argv[at], "-c")); at += 2)
		*(!strcmp(argv[at], "--control") ? &a.control : &a.config) = argv[at + 1];
	if (argc > at && (!strcmp(argv[at], "replay") || !strcmp(argv[at], "disk"))) {
		struct ft_error err = {0};
		a.rest = argv + at + 1;
		a.rest_count = argc - at - 1;
		int failed = !strcmp(argv[at], "disk") ? disk(&a, &err) : replay(&a, &err);
		fprintf(stderr, "foretaste: %s\n", err.text);
		return failed;
	}
	a.control = a.config = NULL;
	int code = parse(argc, argv, &a);
	if (code >= 0)
		return code;
	if (optind == argc) {
		usage(stderr);
		return EX_USAGE;
	}
	const char *name = argv[optind];
	a.rest = argv + optind + 1;
	a.rest_count = argc - optind - 1;
	for (size_t i = 0; i < COMMANDS; i++) {
		if (strcmp(commands[i].name, name))
			continue;
		if (a.rest_count < commands[i].least || a.rest_count > commands[i].most) {
			fprintf(stderr, "usage: foretaste %s %s [OPTION]...\n", name, commands[i].rest);
			return EX_USAGE;
		}
		struct ft_error err = {0};
		code = commands[i].run(&a, &err);
		if (!code && (fflush(stdout) || ferror(stdout))) {
			ft_error_set(&err, -errno, "cannot write: %s", strerror(errno));
			code = EX_IOERR;
		}
		if (code)
			fprintf(stderr, "foretaste: %s\n", err.text);
		return code;
	}
	return unknown_command(name);
}
