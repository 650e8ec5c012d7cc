/* foretaste-dataplane: started by the supervisor with its control channel as descriptor 3. Opens the port,
 * gives up every privilege, and then moves frames until the channel closes or says stop. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/channel.h"
#include "base/confine.h"
#include "dataplane/backlog.h"
#include "dataplane/confinement.h"
#include "dataplane/gate.h"
#include "dataplane/order.h"
#include "dataplane/lane.h"
#include "dataplane/port.h"
#include "dataplane/reload.h"
#include "dataplane/reloader.h"

#define RECORD_FD 0

/* Kernel packet rings have no wake-up that DPDK shows: when idle the port is looked at this often. It is the
 * most that sleeping adds to a frame's way. */
#define SLEEP_MOST_NS 1000000u
#define SPIN_NS       30000u /* keep looking for that long after the last frame before sleeping at all */

#define BACKLOG_NS      5000000u /* between two attempts to hand on what the ledger had no room for */
#define LAST_RECORDS_MS 1000     /* at the end: how long it gets to make some */

/* DPDK binds its threads to processors, and gives up where it may not. Ours may run wherever the process may (port.c), so to
 * bind them changes nothing, and the service has no need for the system call. In place of the C library's for this program. */
__attribute__((visibility("default"))) int pthread_setaffinity_np(pthread_t thread, size_t size, const cpu_set_t *set)
{
	return 0;
}

struct process {
	struct ft_port ports[FT_GATE_UPLINKS];
	const char *uplinks[FT_GATE_UPLINKS]; /* their names in the configuration */
	unsigned uplink_count;
	struct ft_gate *gate;
	struct ft_lane lane;
	json_t *said;
	struct ft_reloader *reloader;
	json_t *reload_id; /* of the query that the reload under way answers */
	struct ft_backlog records;
	uint64_t records_at; /* when to try again */
	uint64_t idle_sleep;
	uint64_t busy_at; /* when there was work last */
	bool record_broken;
	bool linked; /* a guest was there at least once */
	bool stop;
};

static uint64_t monotonic_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void say(const char *op, json_t *message)
{
	json_object_set_new(message, "op", json_string(op));
	ft_channel_send(FT_CHANNEL_FD, message, NULL, 0);
	json_decref(message);
}

static void log_line(void *context, const char *level, const char *text)
{
	say("log", json_pack("{s:s, s:s}", "level", level, "text", text));
}

static int fail(int code, const struct ft_error *err)
{
	say("failed", json_pack("{s:i, s:s}", "code", code, "text", err->text));
	return code;
}

static int send_frame(void *context, unsigned uplink, const void *frame, size_t length)
{
	struct process *process = context;
	return ft_lane_send(&process->lane, uplink, frame, length);
}

/* A ledger that is slow or gone costs records, which is said, never packets' time. */
static void send_record(void *context, json_t *record)
{
	struct process *process = context;
	int error = ft_backlog_send(&process->records, record);
	if (!error) {
		process->record_broken = false;
		return;
	}
	if (!process->record_broken) {
		char text[128];
		snprintf(text, sizeof(text), "cannot hand a record to the ledger: %s", strerror(-error));
		log_line(process, "error", text);
	}
	process->record_broken = true;
}

static void tell_canary(void *context, json_t *result)
{
	json_t *message = json_copy(result);
	say("canary", message);
}

/* Waits for the first message, which is the configuration. */
static int receive_config(json_t **config, int fds[FT_CHANNEL_FDS], int *count, struct ft_error *err)
{
	int error = ft_channel_receive(FT_CHANNEL_FD, config, fds, count);
	if (error)
		return ft_error_set(err, error, "no configuration from the supervisor: %s", strerror(-error));
	const char *op = json_string_value(json_object_get(*config, "op"));
	if (!op || strcmp(op, "config") || !json_is_object(json_object_get(*config, "config")))
		return ft_error_set(err, -EPROTO, "the supervisor's first message is no configuration");
	if (*count < 1)
		return ft_error_set(err, -EPROTO, "the supervisor sent no socket for records");
	return 0;
}

static void refuse_query(const json_t *id, int code, const char *text)
{
	say("answer", json_pack("{s:O?, s:s, s:i}", "id", id, "error", text, "code", code));
}

static void begin_reload(struct process *process, const json_t *message)
{
	json_t *id = json_object_get(message, "id");
	int error = ft_reloader_begin(process->reloader, json_object_get(message, "config"));
	if (error) {
		refuse_query(id, EX_TEMPFAIL,
			     error == -EBUSY ? "another reload is under way" : "no memory for a reload");
		return;
	}
	process->reload_id = json_incref(id);
}

/* Between two bursts the new rules take the place of the old ones. */
static void finish_reload(struct process *process)
{
	struct ft_rulebook *book;
	struct ft_error err;
	if (!ft_reloader_done(process->reloader, &book, &err))
		return;
	if (!book || ft_gate_reload(process->gate, book, &err))
		refuse_query(process->reload_id, EX_CONFIG, err.text);
	else
		say("answer", json_pack("{s:O?, s:{s:b}}", "id", process->reload_id, "result", "reloaded", 1));
	json_decref(process->reload_id);
	process->reload_id = NULL;
}

static void answer_query(struct process *process, json_t *message)
{
	const char *what = json_string_value(json_object_get(message, "what"));
	if (what && !strcmp(what, "reload")) {
		begin_reload(process, message);
		return;
	}
	json_t *answer = json_object();
	json_object_set(answer, "id", json_object_get(message, "id"));
	bool metrics = what && !strcmp(what, "metrics");
	if (metrics || (what && !strcmp(what, "status"))) {
		json_t *status = ft_gate_status(process->gate, metrics);
		json_t *uplinks = json_object();
		for (unsigned i = 0; i < process->uplink_count; i++)
			json_object_set_new(uplinks, process->uplinks[i],
					    json_pack("{s:s, s:I}", "driver", process->ports[i].driver, "missed",
						      (json_int_t)ft_port_missed(&process->ports[i])));
		json_object_set_new(status, "uplinks", uplinks);
		json_object_set_new(status, "records_lost", json_integer((json_int_t)process->records.lost));
		json_object_set_new(answer, "result", status);
	} else if (what && !strcmp(what, "holds")) {
		json_object_set_new(answer, "result", ft_gate_holds(process->gate));
	} else if (what && !strcmp(what, "counters")) {
		json_object_set_new(answer, "result", ft_gate_counters(process->gate));
	} else {
		struct ft_refusal refusal;
		json_t *result = ft_order(process->gate, message, &refusal);
		if (result) {
			json_object_set_new(answer, "result", result);
		} else {
			json_object_set_new(
			    answer, "error",
			    json_string(refusal.code ? refusal.text
						     : "the dataplane has no such thing to tell or to do"));
			json_object_set_new(answer, "code",
					    json_integer(refusal.code ? refusal.code : EX_DATAERR));
		}
	}
	say("answer", answer);
}

static void take_link(struct process *process, json_t *message, int fds[FT_CHANNEL_FDS], int count)
{
	const char *guest = json_string_value(json_object_get(message, "guest"));
	struct ft_error err = {0};
	if (!guest || count != FT_LINK_FDS) {
		log_line(process, "error",
			 "a link without a guest's name or with the wrong number of descriptors");
		return;
	}
	if (ft_gate_link(process->gate, guest, fds, &err))
		log_line(process, "error", err.text);
	else
		process->linked = true;
	for (int i = 0; i < count; i++)
		fds[i] = -1;
}

static void take_suppressions(struct process *process, json_t *message)
{
	struct ft_refusal refusal;
	json_object_set_new(message, "what", json_string("suppress"));
	json_t *result = ft_order(process->gate, message, &refusal);
	if (!result)
		log_line(process, "error", refusal.text);
	json_decref(result);
}

/* One message from the supervisor. False: the channel is at its end. */
static bool handle_channel(struct process *process)
{
	json_t *message;
	int fds[FT_CHANNEL_FDS], count;
	int error = ft_channel_receive(FT_CHANNEL_FD, &message, fds, &count);
	if (error)
		return error == -EAGAIN || error == -EPROTO || error == -EMSGSIZE;
	const char *op = json_string_value(json_object_get(message, "op"));
	if (!op)
		log_line(process, "warning", "a message without op");
	else if (!strcmp(op, "link"))
		take_link(process, message, fds, count);
	else if (!strcmp(op, "guest-down"))
		ft_gate_guest_down(process->gate, json_string_value(json_object_get(message, "guest")),
				   json_string_value(json_object_get(message, "why")));
	else if (!strcmp(op, "guest-isolated"))
		ft_gate_guest_isolated(process->gate, json_string_value(json_object_get(message, "guest")));
	else if (!strcmp(op, "query"))
		answer_query(process, message);
	else if (!strcmp(op, "suppress"))
		take_suppressions(process, message);
	else if (!strcmp(op, "stop"))
		process->stop = true;
	else
		log_line(process, "warning", "a message with an op that the dataplane does not know");
	for (int i = 0; i < count; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	json_decref(message);
	return true;
}

/* Sleeps until something can be read or until the port has to be looked at again. */
static bool wait_for_work(struct process *process, uint64_t now, uint64_t due)
{
	int wake[FT_GATE_WAKES];
	unsigned wakes;
	if (!ft_gate_sleep(process->gate, wake, &wakes))
		return true;
	uint64_t sleep = process->idle_sleep < SLEEP_MOST_NS ? process->idle_sleep : SLEEP_MOST_NS;
	process->idle_sleep = sleep * 2 + 10000;
	if (due > now && due - now < sleep)
		sleep = due - now;
	struct timespec timeout = {.tv_nsec = (long)sleep};
	struct pollfd polls[1 + FT_GATE_WAKES] = {{FT_CHANNEL_FD, POLLIN, 0}};
	bool readable[FT_GATE_WAKES];
	for (unsigned i = 0; i < wakes; i++)
		polls[1 + i] = (struct pollfd){wake[i], POLLIN, 0};
	int n = ppoll(polls, 1 + wakes, &timeout, NULL);
	for (unsigned i = 0; i < wakes; i++)
		readable[i] = n > 0 && polls[1 + i].revents;
	ft_gate_awake(process->gate, readable);
	if (n > 0 && polls[0].revents)
		return handle_channel(process);
	return true;
}

/* What was decided at the very end is worth a moment. */
static void last_records(struct process *process)
{
	struct pollfd room = {.fd = RECORD_FD, .events = POLLOUT};
	uint64_t end = monotonic_ns() + LAST_RECORDS_MS * 1000000ull;
	while (ft_backlog_waits(&process->records) && monotonic_ns() < end &&
	       poll(&room, 1, LAST_RECORDS_MS) > 0)
		ft_backlog_flush(&process->records);
}

static void run(struct process *process)
{
	uint64_t channel_at = 0;
	bool open = true;
	while (open && !process->stop) {
		struct ft_lane_burst burst;
		/* Before the first link frames wait in the ports: the guests are about to come. */
		ft_lane_burst(&process->lane, process->linked, &burst);
		uint64_t now = burst.now_ns;
		if (process->reload_id)
			finish_reload(process);
		if (now >= process->records_at) {
			ft_backlog_flush(&process->records);
			process->records_at = now + BACKLOG_NS;
		}
		if (burst.work) {
			process->busy_at = now;
			process->idle_sleep = 0;
			/* Under load the channel is only looked at now and then; a message can wait a
			 * millisecond. */
			if (now - channel_at < 1000000)
				continue;
			channel_at = now;
			struct pollfd poll_channel = {FT_CHANNEL_FD, POLLIN, 0};
			if (poll(&poll_channel, 1, 0) > 0)
				open = handle_channel(process);
		} else if (now - process->busy_at >= SPIN_NS) {
			open = wait_for_work(process, now, burst.due_ns);
		}
	}
	ft_gate_stop(process->gate);
	for (unsigned i = 0; i < process->uplink_count; i++)
		ft_port_flush(&process->ports[i]);
	last_records(process);
}

static int open_ports(struct process *process, const json_t *config, struct ft_error *err)
{
	struct ft_port_config how[FT_GATE_UPLINKS];
	json_t *uplinks = json_object_get(config, "uplinks"), *value;
	const char *name;
	if (!json_object_size(uplinks) || json_object_size(uplinks) > FT_GATE_UPLINKS)
		return ft_error_set(err, -EINVAL, "uplinks: not between 1 and %u of them", FT_GATE_UPLINKS);
	unsigned count = 0;
	json_object_foreach(uplinks, name, value)
	{
		const char *port = json_string_value(json_object_get(value, "port"));
		const char *huge = json_string_value(json_object_get(value, "huge"));
		if (!port)
			return ft_error_set(err, -EINVAL, "uplink %s: port is missing", name);
		how[count] = (struct ft_port_config){
		    .name = name, .devargs = port, .huge = !huge || strcmp(huge, "never")};
		process->uplinks[count] = name;
		count++;
	}
	int error = ft_ports_open(process->ports, how, count, process->said, err);
	process->uplink_count = error ? 0 : count;
	return error;
}

static unsigned kernel_sides(const struct process *process)
{
	unsigned bits = 0;
	for (unsigned i = 0; i < process->uplink_count; i++)
		bits |= (unsigned)process->ports[i].kernel_side << i;
	return bits;
}

static int give_up_privileges(const json_t *message, struct ft_error *err)
{
	json_int_t uid = json_integer_value(json_object_get(message, "uid"));
	json_int_t gid = json_integer_value(json_object_get(message, "gid"));
	if (uid <= 0 || gid <= 0 || uid >= UINT32_MAX || gid >= UINT32_MAX)
		return ft_error_set(err, -EINVAL, "uid and gid to run as are missing");
	int error = ft_confine_identity((uid_t)uid, (gid_t)gid, FT_CONFINE_UNDUMPABLE, err);
	return error ? error : ft_confinement_install(err);
}

/* The page where the ledger says what is durable; it stays mapped. NULL: there is none. */
static const struct ft_durable *map_page(int fd)
{
	void *page = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(struct ft_durable), PROT_READ, MAP_SHARED, fd, 0);
	return page == MAP_FAILED ? NULL : page;
}

int main(void)
{
	struct process process = {.said = json_array()};
	struct ft_error err = {0};
	json_t *message = NULL;
	int fds[FT_CHANNEL_FDS], count = 0;
	/* The default slack of 50 us would be a fifth of the time between looks at the port. */
	prctl(PR_SET_TIMERSLACK, 1000);
	if (receive_config(&message, fds, &count, &err))
		return fail(EX_PROTOCOL, &err);
	if (dup2(fds[0], RECORD_FD) < 0 || ft_backlog_open(&process.records, RECORD_FD)) {
		ft_error_set(&err, -ENOMEM, "no descriptor or no memory for records");
		return fail(EX_OSERR, &err);
	}
	const struct ft_durable *page = map_page(count > 1 ? fds[1] : -1);
	for (int i = 0; i < count; i++)
		if (fds[i] != RECORD_FD)
			close(fds[i]);
	const json_t *config = json_object_get(message, "config");
	if (open_ports(&process, config, &err))
		return fail(err.code == -EINVAL ? EX_CONFIG : EX_UNAVAILABLE, &err);
	struct ft_gate_outlet outlet = {.context = &process,
					.send = send_frame,
					.record = send_record,
					.log = log_line,
					.canary = tell_canary,
					.kernel_side = kernel_sides(&process)};
	int code = 0;
	if (ft_gate_new(config, &outlet, &process.gate, &err))
		code = EX_CONFIG;
	else if (ft_reloader_start(&process.reloader, &err))
		code = EX_OSERR;
	else if (give_up_privileges(message, &err))
		code = EX_NOPERM;
	if (code) {
		fail(code, &err);
	} else {
		ft_gate_durable(process.gate, page);
		process.lane = (struct ft_lane){
		    .ports = process.ports, .port_count = process.uplink_count, .gate = process.gate};
		say("ready", json_pack("{s:o}", "said", process.said));
		run(&process);
	}
	ft_gate_free(process.gate);
	ft_backlog_close(&process.records);
	ft_ports_close(process.ports, process.uplink_count);
	json_decref(message); /* the uplinks' names are in it */
	return code;
}
