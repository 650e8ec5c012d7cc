/* The control socket, its requests and the children's answers: clients that send any bytes in any pieces, hang up or do not
 * read, and children that answer what nobody asked. Every line that comes back is one answer to one request of that client:
 * an object with `id` and either `result` or `error` and `code`. */
#include "input.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/channel.h"
#include "gateway/answer.h"
#include "gateway/operate.h"
#include "gateway/suppress.h"
#include "gateway/supervisor.h"

#define CLIENTS  3u
#define CHILDREN 3u

struct client {
	int fd; /* -1: none */
	size_t lines, answers;
	char out[1 << 16];
	size_t out_length;
};

static struct ft_config config;
static char directory[] = "/tmp/foretaste-fuzz-XXXXXX", path[64];

static struct world {
	struct ft_supervisor s;
	struct client client[CLIENTS];
	int child[CHILDREN]; /* the children's ends */
	int64_t asked[64];
	unsigned of[64]; /* which child */
	unsigned asked_count;
} w;

static void remove_all(void)
{
	ft_config_free(&config);
	rmdir(directory);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const char text[] =
	    "sensor: s1\nuplink: {port: net_null0}\nguests:\n  web: {kernel: main.yaml, memory: 128 MiB, "
	    "mac: \"52:54:00:00:02:0f\", address: 10.0.2.15}\nservices:\n  http: {guest: web, port: 80, "
	    "mode: enforce, rules: []}\nverdict_rules: v.yaml\ncorrelation_rules: "
	    "v.yaml\n";
	char file[80], rules[80];
	struct ft_error err = {0};
	MUST(mkdtemp(directory));
	snprintf(path, sizeof(path), "%s/control", directory);
	snprintf(file, sizeof(file), "%s/main.yaml", directory);
	FILE *f = fopen(file, "w");
	MUST(f && fputs(text, f) >= 0 && !fclose(f));
	snprintf(rules, sizeof(rules), "%s/v.yaml", directory);
	f = fopen(rules, "w");
	MUST(f && fputs("verdicts: []\n", f) >= 0 && !fclose(f));
	int error = ft_config_load(&config, file, NULL, 0, &err);
	if (error)
		fprintf(stderr, "%s\n", err.text);
	MUST(!error);
	unlink(file);
	unlink(rules);
	atexit(remove_all);
	/* Nothing is started from there; and what the supervisor says on its way is not for people here. */
	setenv("FORETASTE_LIBEXEC", directory, 1);
	MUST(ft_child_program(FT_CHILD_VMM, file, sizeof(file), NULL));
	stderr = fopen("/dev/null", "w");
	MUST(stderr);
	return 0;
}

/* Serves whatever is ready. */
static void serve(void)
{
	struct pollfd ready = {.fd = w.s.loop.epoll, .events = POLLIN};
	for (unsigned i = 0; i < 200 && poll(&ready, 1, 0) > 0; i++)
		ft_loop_step(&w.s.loop, 0);
}

static void check_answer(struct client *c, const char *line, size_t length)
{
	json_t *answer = json_loadb(line, length, 0, NULL);
	MUST(json_is_object(answer) && json_object_get(answer, "id"));
	json_t *result = json_object_get(answer, "result"), *error = json_object_get(answer, "error");
	MUST(!result != !error);
	if (error)
		MUST(json_is_string(error) && json_string_length(error) &&
		     json_is_integer(json_object_get(answer, "code")));
	json_decref(answer);
	/* A line that is too long, and the refusal of one connection too many, are answers to nothing that ended. */
	MUST(++c->answers <= c->lines + 1);
}

static void hear(struct client *c)
{
	if (c->fd < 0)
		return;
	ssize_t n;
	while ((n = recv(c->fd, c->out + c->out_length, sizeof(c->out) - c->out_length, MSG_DONTWAIT)) > 0) {
		c->out_length += (size_t)n;
		char *end;
		while ((end = memchr(c->out, '\n', c->out_length))) {
			size_t length = (size_t)(end - c->out);
			check_answer(c, c->out, length);
			c->out_length -= length + 1;
			memmove(c->out, end + 1, c->out_length);
		}
		MUST(c->out_length < sizeof(c->out));
	}
	if (!n) {
		close(c->fd);
		c->fd = -1;
	}
}

static void dial(struct client *c)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	memcpy(to.sun_path, path, strlen(path) + 1);
	if (c->fd >= 0)
		return;
	*c = (struct client){.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
	MUST(c->fd >= 0 && !connect(c->fd, (struct sockaddr *)&to, sizeof(to)));
}

static void send_bytes(struct client *c, const void *bytes, size_t length)
{
	if (c->fd < 0 || !length)
		return;
	ssize_t n = send(c->fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL);
	for (ssize_t i = 0; i < n; i++)
		c->lines += ((const char *)bytes)[i] == '\n';
}

static void request(struct client *c, struct input *in)
{
	static const char *const whats[] = {
	    "status",  "holds",       "counters",   "verdicts",      "show",          "statu",       "",
	    "metrics", "guest-start", "guest-stop", "guest-restart", "guest-console", "release",     "drop",
	    "mode",    "shadow",      "bypass",     "suppress",      "unsuppress",    "suppressions"};
	static const char *const guests[] = {"web", "we", ""}, *const services[] = {"http", "htp", ""};
	static const char *const modes[] = {"enforce", "observe", "shadow", "x"};
	static const char *const networks[] = {"10.0.0.0/8", "2001:db8::/32", "10.0.0.1/33", "x"};
	static const char *const times[] = {"1 h", "0 s", "1", "99999999 h"};
	char line[512];
	uint8_t what = input8(in), how = input8(in), number = input8(in);
	snprintf(
	    line, sizeof(line),
	    "{\"what\": \"%s\", \"id\": %d, \"hold\": %d, \"limit\": %d, \"sid\": %d, \"suppression\": %d, "
	    "\"guest\": \"%s\", \"service\": \"%s\", \"mode\": \"%s\", \"on\": %s, \"network\": \"%s\", "
	    "\"for\": \"%s\", \"comment\": \"x\"}\n",
	    whats[what % (sizeof(whats) / sizeof(whats[0]))], how >> 3, (int8_t)number, (int8_t)number,
	    (int8_t)number, number, guests[how % 3], services[how / 3 % 3], modes[how / 9 & 3],
	    how & 0x80 ? "true" : "false", networks[how / 16 & 3], times[number & 3]);
	send_bytes(c, line, strlen(line));
}

/* The supervisor's questions, as its children hear them. */
static void listen_child(unsigned n)
{
	json_t *message;
	int fds[FT_CHANNEL_FDS], count;
	while (!ft_channel_receive(w.child[n], &message, fds, &count)) {
		const char *op = json_string_value(json_object_get(message, "op"));
		MUST(!count && op);
		if (!strcmp(op, "query")) {
			json_t *id = json_object_get(message, "id");
			MUST(json_is_integer(id) && json_is_string(json_object_get(message, "what")));
			w.of[w.asked_count % 64] = n;
			w.asked[w.asked_count++ % 64] = json_integer_value(id);
		}
		json_decref(message);
	}
}

/* May the child answer this? Only what it was asked, and once. */
static bool was_asked(unsigned n, const json_t *message)
{
	const json_t *id = json_object_get(message, "id");
	for (unsigned i = 0; i < 64; i++)
		if (json_is_integer(id) && w.asked[i] && w.of[i] == n && w.asked[i] == json_integer_value(id)) {
			w.asked[i] = 0;
			return true;
		}
	return w.asked_count > 64; /* not all of it is remembered */
}

static void answer(struct input *in)
{
	uint8_t how = input8(in);
	unsigned n = how % CHILDREN;
	json_t *message = NULL;
	listen_child(n);
	if (how & 0x80) { /* anything */
		size_t length;
		const uint8_t *bytes = input_bytes(in, input8(in), &length);
		message = json_loadb((const char *)bytes, length, 0, NULL);
	} else {
		int64_t id = how & 0x40 ? input8(in) : w.asked[(w.asked_count + 63 - (how >> 4 & 3)) % 64];
		message = how & 4
			      ? json_pack("{s:I, s:s, s:i}", "id", (json_int_t)id, "error", "no", "code", 70)
			      : json_pack("{s:I, s:{s:i}}", "id", (json_int_t)id, "result", "x", 1);
		if (how & 8)
			json_object_del(message, "result");
	}
	if (json_is_object(message)) {
		bool asked = was_asked(n, message);
		MUST(!ft_query_answer(&w.s.queries, &w.s.children[n], message) || asked);
	}
	json_decref(message);
}

static void open_world(uint8_t how)
{
	struct ft_error err = {0};
	memset(&w.s, 0, sizeof(w.s));
	w.s.config = &config;
	w.s.count = CHILDREN;
	w.s.phase = FT_PHASE_RUNNING;
	w.s.queries.control = &w.s.control;
	w.s.queries.acted = ft_operate_acted;
	w.s.queries.context = &w.s;
	w.s.live = json_pack("{s:{}, s:{}}", "modes", "bypass");
	w.s.metrics.fd = -1;
	w.s.state_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	MUST(w.s.live && w.s.state_fd >= 0 && !ft_suppress_open(&w.s, &err));
	MUST(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, w.s.records));
	w.asked_count = 0;
	memset(w.asked, 0, sizeof(w.asked));
	MUST(!ft_loop_open(&w.s.loop));
	for (unsigned i = 0; i < CHILDREN; i++) {
		int pair[2];
		ft_child_prepare(&w.s.children[i], (enum ft_child_kind)i, i == FT_CHILD_VMM ? "web" : NULL,
				 1000 + i);
		MUST(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair));
		w.s.children[i].channel.fd = pair[0];
		w.child[i] = pair[1];
		w.s.children[i].state = how >> 2 * i & 3;
	}
	w.s.control.loop = &w.s.loop;
	w.s.control.request = ft_answer_request;
	w.s.control.closed = ft_answer_closed;
	w.s.control.context = &w.s;
	MUST(!ft_control_open(&w.s.control, path, &err));
	for (unsigned i = 0; i < CLIENTS; i++)
		w.client[i].fd = -1;
	dial(&w.client[0]);
	serve();
}

static void close_world(void)
{
	for (unsigned i = 0; i < CLIENTS; i++) {
		if (w.client[i].fd >= 0)
			close(w.client[i].fd);
		w.client[i].fd = -1;
	}
	serve();
	ft_query_expire(&w.s.queries, UINT64_MAX);
	for (unsigned i = 0; i < FT_QUERY_MAX; i++)
		MUST(!w.s.queries.queries[i].connection);
	ft_control_close(&w.s.control);
	for (unsigned i = 0; i < CHILDREN; i++) {
		close(w.s.children[i].channel.fd);
		close(w.child[i]);
	}
	ft_loop_close(&w.s.loop);
	close(w.s.records[0]);
	close(w.s.records[1]);
	unlinkat(w.s.state_fd, "suppressions", 0);
	close(w.s.state_fd);
	json_decref(w.s.suppressions);
	json_decref(w.s.live);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	open_world(input8(&in));
	while (in.left) {
		uint8_t op = input8(&in);
		struct client *c = &w.client[(op >> 6) % CLIENTS];
		switch (op % 12) {
		case 0:
		case 1:
		case 2: {
			size_t length;
			const uint8_t *bytes = input_bytes(&in, input8(&in), &length);
			send_bytes(c, bytes, length);
			break;
		}
		case 3:
		case 4:
			request(c, &in);
			break;
		case 5:
			dial(c);
			break;
		case 6:
			if (c->fd >= 0)
				close(c->fd);
			c->fd = -1;
			break;
		case 7: { /* a line without end */
			static char much[1 << 15];
			memset(much, op, sizeof(much));
			send_bytes(c, much, sizeof(much));
			break;
		}
		case 8:
		case 9:
			answer(&in);
			break;
		case 10:
			if (op & 0x10)
				ft_query_expire(&w.s.queries, op & 0x20 ? UINT64_MAX : 0);
			else
				ft_query_forget(&w.s.queries, &w.s.children[op % CHILDREN]);
			break;
		case 11:
			w.s.children[(op >> 4) % CHILDREN].state = op >> 6;
			break;
		}
		if (!(op & 0x20))
			serve();
		if (op % 3)
			hear(c);
	}
	serve();
	for (unsigned i = 0; i < CLIENTS; i++)
		hear(&w.client[i]);
	close_world();
	return 0;
}
