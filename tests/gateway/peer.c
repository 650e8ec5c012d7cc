/* A child that speaks the supervisor's protocol and misbehaves on order, for test_supervisor.py. It stands in for the
 * ledger, the dataplane and the vmm under their names (symbolic links), so that the supervisor can be tested on what no
 * sane child does. FORETASTE_PEERS is a directory: NAME.mode says what to do, NAME.log gets a line of JSON for each
 * message and record, with the number of descriptors that came along. NAME.WHAT.json is its answer to the query WHAT,
 * NAME.say.json a list of messages that it sends once, before its next answer. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/channel.h"
#include "base/confine.h"

static const char *own_name;
static char mode[64];

/* SIGUSR1: its guest powered off (src/gateway/protocol.md). */
static void reboot_guest(int signal)
{
	_exit(10);
}

static void power_off(int signal)
{
	_exit(11);
}

static int log_fd;

static void note(json_t *json)
{
	char *text = json_dumps(json, JSON_COMPACT);
	json_decref(json);
	dprintf(log_fd, "%s\n", text);
	free(text);
}

static int say(json_t *message)
{
	int error = ft_channel_send(FT_CHANNEL_FD, message, NULL, 0);
	json_decref(message);
	return error;
}

static void open_files(const char *name)
{
	char path[512];
	const char *directory = getenv("FORETASTE_PEERS");
	snprintf(path, sizeof(path), "%s/%s.log", directory, name);
	log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	snprintf(path, sizeof(path), "%s/%s.mode", directory, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, mode, sizeof(mode) - 1);
	mode[n > 0 ? n : 0] = 0;
	close(fd);
}

/* Is it one of the words of our mode? */
static int is(const char *what)
{
	size_t length = strlen(what);
	for (const char *word = mode; *word; word += strcspn(word, " "), word += strspn(word, " "))
		if (strcspn(word, " ") == length && !strncmp(word, what, length))
			return 1;
	return 0;
}

/* Becomes whom it is told to be, as the real ones do. */
static void confine(const json_t *message)
{
	struct ft_error err = {0};
	if (ft_confine_identity((uid_t)json_integer_value(json_object_get(message, "uid")),
				(gid_t)json_integer_value(json_object_get(message, "gid")), FT_CONFINE_UNDUMPABLE, &err))
		say(json_pack("{s:s, s:i, s:s}", "op", "failed", "code", 77, "text", err.text));
}

/* The test's own answer to a question, in NAME.WHAT.json; NULL: there is none. */
static json_t *prepared_answer(const char *what)
{
	char path[512];
	snprintf(path, sizeof(path), "%s/%s.%s.json", getenv("FORETASTE_PEERS"), own_name, what);
	return json_load_file(path, 0, NULL);
}

/* Says the messages of NAME.say.json, once. */
static void say_prepared(void)
{
	char path[512];
	size_t i;
	json_t *message;
	snprintf(path, sizeof(path), "%s/%s.say.json", getenv("FORETASTE_PEERS"), own_name);
	json_t *list = json_load_file(path, 0, NULL);
	if (list)
		unlink(path);
	json_array_foreach(list, i, message) ft_channel_send(FT_CHANNEL_FD, message, NULL, 0);
	json_decref(list);
}

static void answer(const json_t *message)
{
	const char *what = json_string_value(json_object_get(message, "what"));
	json_t *id = json_object_get(message, "id");
	if (is("mute"))
		return;
	if (is("refuses") && !strcmp(what, "reload")) {
		say(json_pack("{s:s, s:O, s:s, s:i}", "op", "answer", "id", id, "error", "it does not like that", "code",
			      78));
		return;
	}
	if (is("liar")) { /* answers everybody's questions but its own */
		for (int i = 0; i < 64; i++)
			if (i != json_integer_value(id))
				say(json_pack("{s:s, s:i, s:s}", "op", "answer", "id", i, "result", "lie"));
		say(json_pack("{s:s, s:s, s:s}", "op", "answer", "id", "x", "result", "lie"));
	}
	say_prepared();
	json_t *prepared = prepared_answer(what);
	if (prepared)
		say(json_pack("{s:s, s:O, s:o}", "op", "answer", "id", id, "result", prepared));
	else if (!strcmp(what, "holds"))
		say(json_pack("{s:s, s:O, s:[]}", "op", "answer", "id", id, "result"));
	else if (!strcmp(what, "show"))
		say(json_pack("{s:s, s:O, s:s}", "op", "answer", "id", id, "error", "there is no such hold"));
	else
		say(json_pack("{s:s, s:O, s:{s:i}}", "op", "answer", "id", id, "result", "pid",
			      (int)getpid()));
}

/* Writes NAME.snapshot.bin as if it were the guest, and says so; without such a file it says why not. */
static void save(int file)
{
	char path[512], bytes[4096];
	snprintf(path, sizeof(path), "%s/%s.snapshot.bin", getenv("FORETASTE_PEERS"), own_name);
	int from = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = from < 0 ? -1 : read(from, bytes, sizeof(bytes));
	if (from >= 0)
		close(from);
	if (n < 0)
		say(json_pack("{s:s, s:s}", "op", "snapshot", "error", "there is no\x1b room"));
	else if (write(file, bytes, (size_t)n) == n)
		say(json_pack("{s:s, s:i, s:i, s:s, s:i, s:i}", "op", "snapshot", "bytes", (int)n, "chunks", 1, "mac",
			      "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "took_ns", 1000, "pause_ns", 10));
}

static void misbehave(void)
{
	if (is("garbage"))
		send(FT_CHANNEL_FD, "\x1b[2J not json", 14, 0);
	if (is("huge")) {
		int size = 1 << 20;
		setsockopt(FT_CHANNEL_FD, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
		char *text = calloc(1, 200000);
		send(FT_CHANNEL_FD, text, 200000, 0);
		free(text);
	}
	for (int i = 0; is("chatter") && i < 500; i++) {
		say(json_pack("{s:s, s:s, s:s}", "op", "log", "level", "info", "text", "\x1b[31mred"));
		dprintf(2, "\x1b]0;title\x07 stderr\n");
	}
	if (is("odd")) {
		say(json_pack("{s:i}", "op", 5));
		say(json_pack("{}"));
		say(json_pack("{s:s, s:[i], s:{}}", "op", "ready", "said", 3, "x"));
		say(json_pack("{s:s, s:s}", "op", "running", "boot_ns", "soon"));
		say(json_pack("{s:s, s:n}", "op", "answer", "id"));
		say(json_pack("{s:s}", "op", "log"));
		int fds[FT_CHANNEL_FDS];
		for (int i = 0; i < FT_CHANNEL_FDS; i++)
			fds[i] = 2;
		json_t *message =
		    json_pack("{s:s, s:s, s:s}", "op", "log", "level", "info", "text", "with descriptors");
		for (int i = 0; i < 100; i++)
			ft_channel_send(FT_CHANNEL_FD, message, fds, FT_CHANNEL_FDS);
		json_decref(message);
	}
}

int main(int argc, char **argv)
{
	const char *slash = strrchr(argv[0], '/'), *name = slash ? slash + 1 : argv[0];
	int records = -1;
	own_name = name;
	open_files(name);
	signal(SIGUSR1, power_off);
	signal(SIGUSR2, reboot_guest);
	if (is("die"))
		return 3;
	struct pollfd polls[2] = {{FT_CHANNEL_FD, POLLIN, 0}, {-1, POLLIN, 0}};
	for (;;) {
		poll(polls, 2, -1);
		json_t *message;
		int fds[FT_CHANNEL_FDS], count;
		if (polls[1].revents && !ft_channel_receive(records, &message, fds, &count)) {
			json_object_set_new(message, "record", json_true());
			note(message);
		}
		if (!polls[0].revents)
			continue;
		if (ft_channel_receive(FT_CHANNEL_FD, &message, fds, &count)) {
			while (is("stubborn"))
				pause();
			return 0;
		}
		const char *op = json_string_value(json_object_get(message, "op"));
		struct timespec now;
		clock_gettime(CLOCK_MONOTONIC, &now);
		note(json_pack("{s:O, s:i, s:i, s:f}", "message", message, "fds", count, "pid", (int)getpid(),
			       "at", (double)now.tv_sec + (double)now.tv_nsec / 1e9));
		if (!strcmp(op, "config")) {
			if (!strcmp(name, "foretaste-ledger"))
				polls[1].fd = records = fds[0];
			if (is("confined"))
				confine(message);
			if (is("fail")) {
				say(json_pack("{s:s, s:i, s:s}", "op", "failed", "code", 66, "text",
					      "there is no\x1b such port"));
				_exit(66); /* not LeakSanitizer's status instead */
			}
			if (is("boots-only") && json_object_get(json_object_get(message, "config"), "snapshot")) {
				say(json_pack("{s:s, s:i, s:s}", "op", "failed", "code", 78, "text", "another\x1b processor"));
				_exit(78);
			}
			say(json_pack("{s:s, s:[s]}", "op", "ready", "said", "a sentence"));
			/* An isolated guest runs without a link. */
			const json_t *snapshot = json_object_get(json_object_get(message, "config"), "snapshot");
			if (snapshot && !json_is_true(json_object_get(snapshot, "attach")))
				say(json_pack("{s:s, s:s, s:i}", "op", "running", "guest", "web", "boot_ns", 1000));
			misbehave();
			if (is("hangup"))
				close(FT_CHANNEL_FD);
			while (is("deaf") || is("hangup"))
				pause();
		} else if (!strcmp(op, "link") && !strcmp(name, "foretaste-vmm")) {
			say(json_pack("{s:s, s:s, s:i}", "op", "running", "guest", "web", "boot_ns",
				      1500000000));
			if (is("settles"))
				say(json_pack("{s:s, s:s}", "op", "settled", "guest", "web"));
		} else if (!strcmp(op, "sink") && is("loses-sinks")) {
			say(json_pack("{s:s, s:i}", "op", "sink-lost", "name", 5));
			say(json_pack("{s:s, s:s}", "op", "sink-lost", "name", "syslog"));
			for (int i = 0; i < 100; i++)
				say(json_pack("{s:s, s:O, s:s}", "op", "sink-lost", "name",
					      json_object_get(message, "name"), "why", "\x1b[2J"));
		} else if (!strcmp(op, "snapshot") && count == 1 && !is("never-saves")) {
			save(fds[0]);
		} else if (!strcmp(op, "query")) {
			answer(message);
		} else if (!strcmp(op, "stop") && !is("stubborn")) {
			/* What waits in the record socket is written down first. */
			json_t *record;
			int more[FT_CHANNEL_FDS], none;
			while (records >= 0 && recv(records, &(char){0}, 1, MSG_PEEK | MSG_DONTWAIT) > 0 &&
			       !ft_channel_receive(records, &record, more, &none)) {
				json_object_set_new(record, "record", json_true());
				note(record);
			}
			return 0;
		}
		for (int i = 0; i < count; i++)
			if (fds[i] != records)
				close(fds[i]);
		json_decref(message);
	}
}
