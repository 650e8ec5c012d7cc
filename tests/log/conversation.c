#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <sodium.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/channel.h"
#include "tests/log/conversation.h"

/* A test that runs as root gives the ledger a uid of its own, as the supervisor does. */
static uid_t ledger_uid(void)
{
	return getuid() ? getuid() : 61234;
}

static json_t *receive(struct conversation *c)
{
	json_t *message;
	int fds[FT_CHANNEL_FDS], count;
	assert_int_equal(ft_channel_receive(c->channel, &message, fds, &count), 0);
	assert_int_equal(count, 0);
	return message;
}

/* The next message that is no log line. */
static json_t *receive_other(struct conversation *c)
{
	for (;;) {
		json_t *message = receive(c);
		const char *op = json_string_value(json_object_get(message, "op"));
		if (strcmp(op, "log") && strcmp(op, "sink-lost"))
			return message;
		json_array_append_new(strcmp(op, "log") ? c->lost : c->logs, message);
	}
}

static void start(struct conversation *c, uint64_t file_limit)
{
	int channel[2], records[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, records), 0);
	pid_t parent = getpid();
	c->pid = fork();
	assert_true(c->pid >= 0);
	if (!c->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		/* Few descriptors: one that is not closed is missed soon. */
		struct rlimit few = {64, 64};
		setrlimit(RLIMIT_NOFILE, &few);
		if (file_limit) {
			struct rlimit limit = {file_limit, file_limit};
			setrlimit(RLIMIT_FSIZE, &limit);
			signal(SIGXFSZ, SIG_IGN); /* write fails with EFBIG, as on a full disk with ENOSPC */
		}
		dup2(channel[1], FT_CHANNEL_FD);
		execl(FT_LEDGER, FT_LEDGER, NULL);
		_exit(127);
	}
	close(channel[1]);
	c->channel = channel[0];
	c->records = records[0];
	int fds[5] = {records[1], open(c->feed, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644),
		      open(c->quarantine, O_RDONLY | O_DIRECTORY | O_CLOEXEC),
		      open(c->state, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fcntl(c->durable_fd, F_DUPFD_CLOEXEC, 0)};
	json_t *config =
	    json_pack("{s:s, s:i, s:i, s:{s:s, s:I, s:I}}", "op", "config", "uid", (int)ledger_uid(), "gid",
		      (int)ledger_uid(), "config", "sensor", "edge1", "feed_quota", (json_int_t)c->feed_quota,
		      "quarantine_quota", (json_int_t)c->quarantine_quota);
	/* Most tests count the feed's lines, so checkpoints are published where a test asks for them. */
	json_object_set_new(json_object_get(config, "config"), "log", json_pack("{s:I}", "publish_every", (json_int_t)c->publish_every));
	json_object_update(json_object_get(config, "config"), c->sinks);
	assert_int_equal(ft_channel_send(c->channel, config, fds, 5), 0);
	json_decref(config);
	for (int i = 0; i < 5; i++)
		close(fds[i]);
	json_t *ready = receive_other(c);
	if (strcmp(json_string_value(json_object_get(ready, "op")), "ready"))
		fail_msg("the ledger did not start: %s", json_string_value(json_object_get(ready, "text")));
	json_decref(ready);
}

static void begin(struct conversation *c, uint64_t file_limit)
{
	assert_true(sodium_init() >= 0);
	strcpy(c->directory, "/tmp/ft-ledger-XXXXXX");
	assert_non_null(mkdtemp(c->directory));
	assert_int_equal(chmod(c->directory, 0755), 0);
	snprintf(c->feed, sizeof(c->feed), "%s/feed.json", c->directory);
	snprintf(c->quarantine, sizeof(c->quarantine), "%s/quarantine", c->directory);
	assert_int_equal(mkdir(c->quarantine, 0700), 0);
	assert_int_equal(chown(c->quarantine, ledger_uid(), ledger_uid()), 0);
	snprintf(c->state, sizeof(c->state), "%s/state", c->directory);
	assert_int_equal(mkdir(c->state, 0755), 0);
	assert_int_equal(chown(c->state, ledger_uid(), ledger_uid()), 0);
	c->durable_fd = memfd_create("durable", MFD_CLOEXEC);
	assert_int_equal(ftruncate(c->durable_fd, sizeof(*c->durable)), 0);
	c->durable = mmap(NULL, sizeof(*c->durable), PROT_READ, MAP_SHARED, c->durable_fd, 0);
	assert_true(c->durable != MAP_FAILED);
	c->logs = json_array();
	c->lost = json_array();
	start(c, file_limit);
}

void conversation_begin(struct conversation *c, uint64_t feed_quota, uint64_t quarantine_quota,
			uint64_t file_limit)
{
	*c = (struct conversation){.feed_quota = feed_quota, .quarantine_quota = quarantine_quota};
	begin(c, file_limit);
}

void conversation_begin_sinks(struct conversation *c, json_t *sinks)
{
	*c = (struct conversation){.sinks = sinks};
	begin(c, 0);
}

void conversation_sink(struct conversation *c, const char *name, int fd, const char *why)
{
	json_t *message = json_pack("{s:s, s:s, s:s*}", "op", "sink", "name", name, "error", why);
	assert_int_equal(ft_channel_send(c->channel, message, &fd, fd >= 0), 0);
	json_decref(message);
}

void conversation_wait_lost(struct conversation *c, size_t count)
{
	while (json_array_size(c->lost) < count) {
		json_t *message = receive(c);
		const char *op = json_string_value(json_object_get(message, "op"));
		json_array_append_new(strcmp(op, "log") ? c->lost : c->logs, message);
	}
}

void conversation_restart(struct conversation *c)
{
	start(c, 0);
}

void conversation_send(struct conversation *c, json_t *record)
{
	assert_non_null(record);
	assert_int_equal(ft_channel_send(c->records, record, NULL, 0), 0);
	json_decref(record);
}

json_t *conversation_ask(struct conversation *c, json_t *query)
{
	assert_non_null(query);
	json_object_set_new(query, "op", json_string("query"));
	json_object_set_new(query, "id", json_integer(7));
	assert_int_equal(ft_channel_send(c->channel, query, NULL, 0), 0);
	json_decref(query);
	json_t *answer = receive_other(c);
	assert_string_equal(json_string_value(json_object_get(answer, "op")), "answer");
	assert_int_equal(json_integer_value(json_object_get(answer, "id")), 7);
	return answer;
}

void conversation_stop(struct conversation *c)
{
	json_t *stop = json_pack("{s:s}", "op", "stop");
	assert_int_equal(ft_channel_send(c->channel, stop, NULL, 0), 0);
	json_decref(stop);
	json_t *message;
	int fds[FT_CHANNEL_FDS], count;
	while (!ft_channel_receive(c->channel, &message, fds, &count)) {
		const char *op = json_string_value(json_object_get(message, "op"));
		json_array_append_new(strcmp(op, "log") ? c->lost : c->logs, message);
	}
	int status;
	assert_int_equal(waitpid(c->pid, &status, 0), c->pid);
	close(c->channel);
	close(c->records);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		fail_msg("the ledger ended with wait status 0x%x", (unsigned)status);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	return remove(path);
}

void conversation_remove(struct conversation *c)
{
	munmap((void *)c->durable, sizeof(*c->durable));
	close(c->durable_fd);
	nftw(c->directory, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	json_decref(c->logs);
	json_decref(c->lost);
	json_decref(c->sinks);
}

json_t *conversation_feed(const struct conversation *c)
{
	json_t *lines = json_array();
	FILE *file = fopen(c->feed, "r");
	char *line = NULL;
	size_t room = 0;
	ssize_t n;
	assert_non_null(file);
	while ((n = getline(&line, &room, file)) > 0) {
		assert_int_equal(line[n - 1], '\n');
		json_t *json = json_loadb(line, (size_t)n - 1, 0, NULL);
		assert_non_null(json);
		json_array_append_new(lines, json);
	}
	free(line);
	fclose(file);
	return lines;
}

json_t *conversation_hold(uint64_t hold, const char *verdict)
{
	bool clean = !strcmp(verdict, "clean");
	json_t *record = json_pack(
	    "{s:s, s:I, s:s, s:s, s:s, s:I, s:I, s:{s:s, s:s, s:i, s:s, s:i, s:i, s:i, s:I}}", "op", "hold",
	    "hold", (json_int_t)hold, "guest", "web", "service", "http", "mode", "enforce", "started_ns",
	    (json_int_t)1790000000000000000, "ended_ns", (json_int_t)1790000000093000000, "flow", "proto",
	    "tcp", "client", "10.0.2.9", "client_port", 51234, "server", "10.0.2.15", "server_port", 80,
	    "packets", 4, "bytes", 512, "start_ns", (json_int_t)1789999999000000000);
	json_object_set_new(
	    record, "input",
	    json_pack("{s:i, s:i, s:s, s:I, s:I, s:s, s:{s:s, s:s, s:s, s:s}}", "frames", 1, "bytes", 141,
		      "sha256", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
		      "first_sequence", (json_int_t)1000, "next_sequence", (json_int_t)1141, "printable",
		      "GET /cgi-bin/lookup?host=a;id HTTP/1.1", "http", "method", "GET", "url",
		      "/cgi-bin/lookup?host=a;id", "hostname", "web.example", "user_agent", "curl/7.88.1"));
	json_object_set_new(record, "trigger",
			    json_pack("{s:s, s:i, s:s, s:n}", "reason", "hold.rule", "sid", 1000001, "rule",
				      "shell-metacharacters-url", "risk"));
	json_object_set_new(record, "trials",
			    json_pack("[{s:s, s:s, s:b, s:i, s:i, s:s, s:i, s:I, s:i, s:i, s:i}]", "role",
				      "trial", "end", "horizon", "handled", 1, "taken_bytes", 141,
				      "held_bytes", 141, "state_hash", "0x00000000deadbeef", "instructions",
				      123456, "virtual_ns", (json_int_t)120000000000, "wall_ns", 90000000,
				      "pause_ns", 400000, "pages_written", 812));
	json_object_set_new(record, "evidence",
			    json_pack("[{s:i, s:s, s:i, s:s, s:s, s:s, s:b, s:s}]", "t_ns", 1200000, "event",
				      "exec", "pid", 512, "process", "lookup", "path", "/usr/bin/id", "argv",
				      "id", "twin", 0, "says",
				      "lookup started the program /usr/bin/id (id)"));
	json_object_set_new(record, "evidence_dropped", json_integer(0));
	json_object_set_new(record, "verdict", json_string(verdict));
	json_object_set_new(record, "rule", json_string(clean ? "trial-clean" : "service-exec"));
	json_object_set_new(record, "rule_sid", json_integer(clean ? 4000001 : 2000001));
	json_object_set_new(record, "rule_rev", json_integer(1));
	json_object_set_new(record, "rule_text",
			    json_string(clean ? "a copy of the server took this input"
					      : "the server started a program that it never starts"));
	json_object_set_new(record, "severity", json_integer(clean ? 4 : 1));
	json_object_set_new(record, "disposition", json_string(clean ? "released" : "dropped"));
	json_object_set_new(record, "disposition_reason",
			    json_string(clean ? "release.clean" : "drop.verdict"));
	json_object_set_new(record, "frames_done", json_integer(1));
	return record;
}

json_t *conversation_packets(uint64_t hold, unsigned frames, size_t bytes)
{
	json_t *list = json_array();
	for (unsigned i = 0; i < frames; i++) {
		unsigned char *frame = malloc(bytes);
		char *text = malloc(sodium_base64_ENCODED_LEN(bytes, sodium_base64_VARIANT_ORIGINAL));
		memset(frame, (int)(i + 1), bytes);
		sodium_bin2base64(text, sodium_base64_ENCODED_LEN(bytes, sodium_base64_VARIANT_ORIGINAL),
				  frame, bytes, sodium_base64_VARIANT_ORIGINAL);
		json_array_append_new(
		    list, json_pack("{s:I, s:s}", "ns", (json_int_t)(1790000000000000000 + i), "data", text));
		free(frame);
		free(text);
	}
	return json_pack("{s:s, s:I, s:i, s:b, s:o}", "op", "packets", "hold", (json_int_t)hold, "seq", 0,
			 "last", 1, "frames", list);
}
