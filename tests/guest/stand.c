#include "stand.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/channel.h"

#define CONFINED_UID 64321u /* nobody's */

static void give_up(const char *what)
{
	fprintf(stderr, "stand: %s\n", what);
	abort();
}

int stand_spawn(struct stand *s, const char *program, int (*child_main)(int channel))
{
	int pair[2];
	memset(s, 0, sizeof(*s));
	s->console = s->channel = -1;
	const char *engine = getenv("FORETASTE_ENGINE"), *clones = getenv("FORETASTE_CLONE_ENGINE"), *vcpus = getenv("FORETASTE_VCPUS");
	s->vcpus = vcpus ? (unsigned)atoi(vcpus) : 1;
	s->kvm = engine && !strcmp(engine, "kvm");
	s->clone_kvm = clones && !strcmp(clones, "kvm");
	s->link = (struct ft_link){.wake_own = -1, .wake_peer = -1, .events = -1};
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return -errno;
	s->pid = fork();
	if (s->pid < 0)
		return -errno;
	if (s->pid == 0) {
		for (int i = 0; i < 32; i++)
			signal(i, SIG_DFL);
		close(pair[0]);
		if (!program)
			_exit(child_main(pair[1]));
		if (pair[1] == FT_CHANNEL_FD)
			fcntl(pair[1], F_SETFD, 0);
		else
			dup2(pair[1], FT_CHANNEL_FD);
		close_range(FT_CHANNEL_FD + 1, ~0u, 0);
		execl(program, program, (char *)NULL);
		_exit(127);
	}
	close(pair[1]);
	s->channel = pair[0];
	return 0;
}

bool stand_message(struct stand *s, int timeout_ms)
{
	struct pollfd fd = {.fd = s->channel, .events = POLLIN};
	json_t *message;
	int fds[FT_CHANNEL_FDS], count;
	if (poll(&fd, 1, timeout_ms) <= 0 || ft_channel_receive(s->channel, &message, fds, &count))
		return false;
	const char *op = json_string_value(json_object_get(message, "op"));
	if (!strcmp(op, "ready"))
		s->ready = true;
	else if (!strcmp(op, "running"))
		s->boot_ns = (uint64_t)json_integer_value(json_object_get(message, "boot_ns"));
	else if (!strcmp(op, "snapshot")) {
		json_decref(s->saved);
		s->saved = json_incref(message);
	} else if (!strcmp(op, "seed")) {
		s->seed_wanted = (uint64_t)json_integer_value(json_object_get(message, "number"));
		s->seed_hold = (uint64_t)json_integer_value(json_object_get(message, "hold"));
	} else if (!strcmp(op, "seed-kept")) {
		json_decref(s->seed_kept);
		s->seed_kept = json_incref(message);
	} else if (!strcmp(op, "checkpoint")) {
		json_decref(s->checkpoint);
		s->checkpoint = json_incref(message);
	} else if (!strcmp(op, "journal")) {
		const char *error = json_string_value(json_object_get(message, "error"));
		s->chunks += json_object_get(message, "hash") != NULL;
		if (json_object_get(message, "lost"))
			s->journal_lost = (uint64_t)json_integer_value(json_object_get(message, "lost"));
		if (error) {
			free(s->journal_error);
			s->journal_error = strdup(error);
		}
	} else if (!strcmp(op, "failed") || !strcmp(op, "log"))
		fprintf(stderr, "vmm: %s\n", json_string_value(json_object_get(message, "text")));
	json_decref(message);
	return true;
}

static int open_in(const char *directory, const char *name)
{
	char path[700];
	snprintf(path, sizeof(path), "%s/%s", directory, name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static int configure(struct stand *s, const char *directory, const char *cmdline, unsigned memory_mib,
		     unsigned clones, int snapshot, bool attach)
{
	char path[] = "/tmp/foretaste-console-XXXXXX";
	int log = mkostemp(path, O_APPEND | O_CLOEXEC);
	s->console = open(path, O_RDONLY | O_CLOEXEC);
	unlink(path);
	int fds[10] = {open_in(directory, "vmlinuz"), open_in(directory, "initrd.img"), open_in(directory, "root.ext4"), log};
	int own = 4;
	if (s->overlay) {
		fds[own++] = open(s->overlay, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		fds[own++] = open(s->overlay, O_RDONLY | O_CLOEXEC);
	}
	for (int i = 0; i < own; i++)
		if (fds[i] < 0)
			give_up("an image cannot be opened");
	int kvm = s->kvm ? open("/dev/kvm", O_RDWR | O_CLOEXEC) : -1;
	if (s->kvm && kvm < 0)
		give_up("/dev/kvm cannot be opened");
	if (snapshot >= 0)
		fds[own] = snapshot;
	unsigned uid = geteuid() ? geteuid() : CONFINED_UID, gid = geteuid() ? getegid() : CONFINED_UID;
	json_t *message = json_pack(
	    "{s:s, s:i, s:i, s:{s:s, s:I, s:i, s:s, s:s, s:s, s:s, s:s, s:b, s:b, s:{s:i, s:{s:s, s:s}}}}",
	    "op", "config", "uid", (int)uid, "gid", (int)gid, "config", "guest", "test", "memory",
	    (json_int_t)memory_mib << 20, "vcpus", (int)s->vcpus, "engine", "soft", "clock", "live", "cmdline", cmdline,
	    "mac", "02:46:54:00:00:15", "address", "10.0.2.15", "has_initrd", 1, "has_disk", 1, "clone",
	    "max", (int)clones, "link", "dns", "refuse", "tcp_sink", "refuse");
	if (snapshot >= 0)
		json_object_set_new(json_object_get(message, "config"), "snapshot", json_pack("{s:b}", "attach", attach));
	if (s->overlay)
		json_object_set_new(json_object_get(message, "config"), "overlay", json_pack("{s:I}", "retention", (json_int_t)3600000000000));
	int count = snapshot >= 0 ? own + 1 : own;
	if (s->kvm) {
		json_t *config = json_object_get(message, "config");
		json_object_set_new(config, "engine", json_string("kvm"));
		json_object_set_new(json_object_get(config, "clone"), "engine", json_string(s->clone_kvm ? "kvm" : "soft"));
		json_object_set_new(config, "portable", json_string(s->native ? "false" : "true"));
		fds[count++] = kvm;
	}
	if (s->journal[0]) {
		json_object_set_new(json_object_get(message, "config"), "journal",
				    json_pack("{s:i, s:i, s:b, s:b}", "run", (int)s->journal_run, "number", 1, "hold", s->journal_holds, "commit",
					      s->journal_commits));
		if (s->journal_seal)
			json_object_set(json_object_get(json_object_get(message, "config"), "journal"), "seal", s->journal_seal);
		for (int i = 0; i < 3; i++)
			fds[count++] = s->journal[i];
	}
	int error = ft_channel_send(s->channel, message, fds, count);
	json_decref(message);
	for (int i = 0; i < own; i++)
		close(fds[i]);
	if (kvm >= 0)
		close(kvm);
	while (!error && !s->ready)
		if (!stand_message(s, STAND_PATIENCE_MS))
			return -1;
	return error;
}

int stand_configure(struct stand *s, const char *directory, const char *cmdline, unsigned memory_mib,
		    unsigned clones)
{
	return configure(s, directory, cmdline, memory_mib, clones, -1, false);
}

int stand_restore(struct stand *s, const char *directory, unsigned memory_mib, unsigned clones, int file, bool attach)
{
	return configure(s, directory, "", memory_mib, clones, file, attach);
}

void stand_link(struct stand *s)
{
	int ours[FT_LINK_FDS], theirs[FT_LINK_FDS];
	ft_link_close(&s->link);
	if (ft_link_create(ours, theirs, NULL) || ft_link_open(&s->link, FT_LINK_DATAPLANE, ours, NULL))
		give_up("no link can be made");
	json_t *message = json_pack("{s:s, s:s}", "op", "link", "guest", "test");
	if (ft_channel_send(s->channel, message, theirs, FT_LINK_FDS))
		give_up("the link cannot be sent");
	json_decref(message);
	for (int i = 0; i < FT_LINK_FDS; i++)
		close(theirs[i]);
}

static void read_console(struct stand *s)
{
	char bytes[4096];
	ssize_t n;
	while ((n = pread(s->console, bytes, sizeof(bytes), (off_t)s->log_length)) > 0) {
		s->log = realloc(s->log, s->log_length + (size_t)n + 1);
		memcpy(s->log + s->log_length, bytes, (size_t)n);
		s->log_length += (size_t)n;
		s->log[s->log_length] = 0;
		if (getenv("VERBOSE"))
			fprintf(stderr, "%.*s", (int)n, bytes);
	}
}

static bool alive(struct stand *s)
{
	return s->pid && waitpid(s->pid, &s->status, WNOHANG) == 0;
}

bool stand_wait_console(struct stand *s, const char *text, void (*meanwhile)(void *), void *context)
{
	for (int waited = 0; waited < STAND_PATIENCE_MS; waited += 5) {
		read_console(s);
		if (s->log && strstr(s->log, text))
			return true;
		if (!alive(s)) {
			s->pid = 0;
			break;
		}
		if (meanwhile)
			meanwhile(context);
		stand_message(s, 5);
	}
	fprintf(stderr, "the console never said \"%s\"; it said:\n%s\n", text, s->log ? s->log : "");
	return false;
}

json_t *stand_status(struct stand *s)
{
	json_t *message = json_pack("{s:s, s:i, s:s}", "op", "query", "id", 7, "what", "status");
	ft_channel_send(s->channel, message, NULL, 0);
	json_decref(message);
	for (;;) {
		struct pollfd fd = {.fd = s->channel, .events = POLLIN};
		int fds[FT_CHANNEL_FDS], count;
		if (poll(&fd, 1, STAND_PATIENCE_MS) <= 0 ||
		    ft_channel_receive(s->channel, &message, fds, &count))
			return NULL;
		json_t *result = json_incref(json_object_get(message, "result"));
		bool answer = !strcmp(json_string_value(json_object_get(message, "op")), "answer");
		json_decref(message);
		if (answer)
			return result;
		json_decref(result);
	}
}

void stand_end(struct stand *s)
{
	close(s->channel);
	if (s->pid)
		waitpid(s->pid, &s->status, 0);
	s->pid = 0;
	ft_link_close(&s->link);
	if (s->console >= 0)
		close(s->console);
	free(s->log);
	json_decref(s->saved);
	json_decref(s->seed_kept);
	json_decref(s->checkpoint);
	free(s->journal_error);
	s->saved = s->checkpoint = NULL;
	s->journal_error = NULL;
	s->log = NULL;
	s->log_length = 0;
}

/* ---- Trials ----------------------------------------------------------------------------------------------------- */

struct ft_trial_begin stand_budgets(uint64_t trial)
{
	return (struct ft_trial_begin){.trial = trial,
				       .seed = 0x5eed,
				       .handling_instructions = 4000000000ull,
				       .horizon_ns = 120000000000ull,
				       .horizon_instructions = 4000000000ull,
				       .wall_ns = 60000000000ull,
				       .memory_pages = 65536};
}

static void command(struct stand *s, uint32_t kind, const void *a, size_t a_length, const void *b,
		    size_t b_length)
{
	struct iovec parts[2] = {{(void *)a, a_length}, {(void *)b, b_length}};
	if (ft_ring_put(&s->link.cmd, kind, parts, b ? 2 : 1))
		give_up("the command ring is full");
}

void stand_ask(struct stand *s, struct ft_trial_begin *begin, struct ft_trial_flow *flows, uint32_t count,
	       const struct stand_frame *frames)
{
	struct ft_trial_go go = {.trial = begin->trial};
	begin->rx_index = s->link.rx.index;
	begin->flows = count;
	begin->frames = 0;
	for (uint32_t i = 0; i < count; i++)
		begin->frames += flows[i].frames;
	command(s, FT_TRIAL_BEGIN, begin, sizeof(*begin), NULL, 0);
	for (uint32_t i = 0; i < count; i++) {
		flows[i].trial = begin->trial;
		command(s, FT_TRIAL_FLOW, &flows[i], sizeof(flows[i]), NULL, 0);
	}
	for (uint32_t i = 0; i < begin->frames; i++)
		command(s, FT_TRIAL_FRAME, &begin->trial, sizeof(begin->trial), frames[i].bytes,
			frames[i].length);
	command(s, FT_TRIAL_GO, &go, sizeof(go), NULL, 0);
	ft_ring_kick(&s->link.cmd);
}

void stand_run(struct stand *s, uint64_t number, struct stand_trial *t, uint32_t flows, uint64_t until_vtime_ns)
{
	struct ft_trial_run run = {.trial = number, .flows = flows, .until_vtime_ns = until_vtime_ns};
	if (flows) {
		t->handled = t->answered = t->end = NULL;
		t->first = t->count;
	} else {
		t->twin_end = NULL;
	}
	command(s, FT_TRIAL_RUN, &run, sizeof(run), NULL, 0);
	ft_ring_kick(&s->link.cmd);
}

static void keep(struct stand_trial *t, const struct ft_event *event, const char *const *strings)
{
	if (!t->events)
		t->events = calloc(STAND_EVENTS, sizeof(*t->events));
	if (t->count == STAND_EVENTS)
		give_up("too many events");
	struct stand_event *e = &t->events[t->count++];
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	e->arrived_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	e->event = *event;
	for (unsigned i = 0; i < FT_EVENT_STRINGS; i++)
		e->strings[i] = strdup(strings[i]);
	if (event->type == FT_EVENT_SEED_READY)
		t->ready = e;
	else if (event->type == FT_EVENT_TRIAL_HANDLED)
		t->handled = e;
	else if (event->type == FT_EVENT_TRIAL_ANSWERED)
		t->answered = e;
	else if (event->type == FT_EVENT_TRIAL_END && event->role == FT_ROLE_TRIAL)
		t->end = e;
	else if (event->type == FT_EVENT_TRIAL_END)
		t->twin_end = e;
	else if (event->type == FT_EVENT_SEED_GONE)
		t->gone = e;
}

/* Takes the events of one message, if there is one within a moment; false: none. */
static bool take(struct stand *s, uint64_t number_a, struct stand_trial *a, uint64_t number_b,
		 struct stand_trial *b)
{
	static uint8_t message[FT_EVENTS_MAX];
	struct ft_event event;
	const char *strings[FT_EVENT_STRINGS];
	ssize_t n = recv(s->link.events, message, sizeof(message), MSG_DONTWAIT);
	if (n <= 0) {
		struct pollfd fd = {.fd = s->link.events, .events = POLLIN};
		if (n == 0)
			give_up("the vmm is gone");
		return poll(&fd, 1, 5) != 0;
	}
	for (size_t at = 0, length; at < (size_t)n; at += length) {
		length = ft_event_first(message + at, (size_t)n - at);
		if (ft_event_check(message + at, length, &event, strings))
			give_up("a malformed event came");
		if (event.trial == number_a)
			keep(a, &event, strings);
		else if (b && event.trial == number_b)
			keep(b, &event, strings);
	}
	return true;
}

/* Takes events until *until is set, or the seed is gone. A fast clone's events may come before SEED_READY, which the live
 * vmm sends: that is waited for, too. */
static void collect(struct stand *s, uint64_t number, struct stand_trial *t,
		    const struct stand_event *const *until, void (*meanwhile)(void *), void *context)
{
	for (int waited = 0; waited < STAND_PATIENCE_MS && (!*until || !t->ready) && !t->gone;) {
		if (meanwhile)
			meanwhile(context);
		waited += take(s, number, t, 0, NULL) ? 0 : 5;
	}
	if (!*until && !t->gone)
		give_up("a trial never ended");
}

void stand_collect_two(struct stand *s, uint64_t number_a, struct stand_trial *a, uint64_t number_b,
		       struct stand_trial *b)
{
	for (int waited = 0; waited < STAND_PATIENCE_MS && (!a->end || !b->end || !a->ready || !b->ready);)
		waited += take(s, number_a, a, number_b, b) ? 0 : 5;
	if (!a->end || !b->end)
		give_up("a trial never ended");
}

void stand_collect(struct stand *s, uint64_t number, struct stand_trial *t, bool twin,
		   void (*meanwhile)(void *), void *context)
{
	collect(s, number, t, twin ? &t->twin_end : &t->end, meanwhile, context);
}

void stand_keep(struct stand *s, uint64_t number, uint64_t hold)
{
	struct ft_trial_keep keep = {.trial = number, .hold = hold};
	command(s, FT_TRIAL_KEEP, &keep, sizeof(keep), NULL, 0);
	ft_ring_kick(&s->link.cmd);
}

void stand_keep_in(struct stand *s, int file)
{
	json_t *message = json_pack("{s:s, s:I, s:I}", "op", "seed", "number", (json_int_t)s->seed_wanted, "created_ns", (json_int_t)1);
	if (ft_channel_send(s->channel, message, &file, file >= 0))
		give_up("a seed's file cannot be sent");
	json_decref(message);
	s->seed_wanted = 0;
}

void stand_finish(struct stand *s, uint64_t number, struct stand_trial *t)
{
	struct ft_trial_go go = {.trial = number};
	command(s, FT_TRIAL_FINISH, &go, sizeof(go), NULL, 0);
	ft_ring_kick(&s->link.cmd);
	collect(s, number, t, &t->gone, NULL, NULL);
}

void stand_trial_free(struct stand_trial *t)
{
	for (size_t i = 0; i < t->count; i++)
		for (unsigned j = 0; j < FT_EVENT_STRINGS; j++)
			free(t->events[i].strings[j]);
	free(t->events);
	memset(t, 0, sizeof(*t));
}

const struct stand_event *stand_find(const struct stand_trial *t, enum ft_event_role role,
				     enum ft_event_type type, const char *text)
{
	for (size_t i = t->first; i < t->count; i++)
		if (t->events[i].event.role == role && t->events[i].event.type == type &&
		    (!text || strstr(t->events[i].strings[0], text)))
			return &t->events[i];
	return NULL;
}

void stand_print(const struct stand_trial *t)
{
	for (size_t i = 0; i < t->count; i++) {
		const struct ft_event *e = &t->events[i].event;
		fprintf(stderr, "  %-5s %12.6f %-13s pid %-5ld %-15.15s %lx %lx %lx %lx %s | %s\n",
			ft_event_role_name(e->role), (double)e->vtime_ns / 1e9, ft_event_name(e->type),
			(long)e->pid, e->process, (long)e->a[0], (long)e->a[1], (long)e->a[2], (long)e->a[3],
			t->events[i].strings[0], t->events[i].strings[1]);
	}
}
